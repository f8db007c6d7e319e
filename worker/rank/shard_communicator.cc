#include "worker/rank/shard_communicator.h"

#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "common/status_macros.h"

namespace longhaul::worker::rank {

ShardCommunicator::ShardCommunicator(comm::Communicator& communicator)
    : communicator_(communicator) {}

absl::Status ShardCommunicator::Sum(TensorView inout) {
  RETURN_IF_ERROR(communicator_.AllReduceSum(inout, Stream{}))
      << "sum of [" << inout.rows << ", " << inout.cols << "] over " << communicator_.size()
      << " tensor-parallel ranks";
  return absl::OkStatus();
}

absl::Status ShardCommunicator::Gather(TensorView part, std::span<const TensorView> parts) {
  if (communicator_.rank() != 0) {
    RETURN_IF_ERROR(communicator_.Send(part, 0, Stream{}))
        << "part [" << part.rows << ", " << part.cols << "] of the logits";
    return absl::OkStatus();
  }
  CHECK(static_cast<int>(parts.size()) == communicator_.size()) << "parts=" << parts.size();
  for (int rank = 1; rank < communicator_.size(); ++rank) {
    const TensorView theirs = parts[static_cast<size_t>(rank)];
    RETURN_IF_ERROR(communicator_.Recv(theirs, rank, Stream{}))
        << "part [" << theirs.rows << ", " << theirs.cols << "] of the logits";
  }
  return absl::OkStatus();
}

}  // namespace longhaul::worker::rank
