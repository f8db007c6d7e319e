#include "worker/rank/shard_communicator.h"

#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "common/status_macros.h"

namespace longhaul::worker::rank {

using backend::Lane;

ShardCommunicator::ShardCommunicator(comm::Communicator& communicator, backend::Backend& backend)
    : communicator_(communicator), backend_(backend), gather_(MakeSlot()) {}

template <typename Transfer>
absl::Status ShardCommunicator::Begin(Slot& slot, const Transfer& transfer) {
  CHECK(!slot.pending) << "a transfer began before the one before was awaited";
  RETURN_IF_ERROR(backend_.Record(Lane::kOps, *slot.begin));
  RETURN_IF_ERROR(backend_.Await(*slot.begin, Lane::kSums));
  RETURN_IF_ERROR(transfer(backend_.StreamOf(Lane::kSums)));
  RETURN_IF_ERROR(backend_.Record(Lane::kSums, *slot.end));
  slot.pending = true;
  return absl::OkStatus();
}

absl::Status ShardCommunicator::End(Slot& slot) {
  slot.pending = false;
  return backend_.Await(*slot.end, Lane::kOps);
}

absl::Status ShardCommunicator::BeginSum(TensorView inout, size_t slot) {
  while (sums_.size() <= slot) sums_.push_back(MakeSlot());
  return Begin(sums_[slot], [&](Stream stream) -> absl::Status {
    RETURN_IF_ERROR(communicator_.AllReduceSum(inout, stream))
        << "sum of [" << inout.rows << ", " << inout.cols << "] over " << communicator_.size()
        << " tensor-parallel ranks";
    return absl::OkStatus();
  });
}

absl::Status ShardCommunicator::Await(size_t slot) {
  return slot < sums_.size() && sums_[slot].pending ? End(sums_[slot]) : absl::OkStatus();
}

absl::Status ShardCommunicator::Gather(TensorView part, std::span<const TensorView> parts) {
  const auto gather = [&](Stream stream) -> absl::Status {
    if (communicator_.rank() != 0) {
      RETURN_IF_ERROR(communicator_.Send(part, 0, stream))
          << "part [" << part.rows << ", " << part.cols << "] of the logits";
      return absl::OkStatus();
    }
    CHECK(static_cast<int>(parts.size()) == communicator_.size()) << "parts=" << parts.size();
    for (int rank = 1; rank < communicator_.size(); ++rank) {
      const TensorView theirs = parts[static_cast<size_t>(rank)];
      RETURN_IF_ERROR(communicator_.Recv(theirs, rank, stream))
          << "part [" << theirs.rows << ", " << theirs.cols << "] of the logits";
    }
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(Begin(gather_, gather));
  return End(gather_);
}

}  // namespace longhaul::worker::rank
