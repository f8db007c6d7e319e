#include "worker/rank/stage_link.h"

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace longhaul::worker::rank {

using backend::Lane;

StageLink::StageLink(comm::Communicator& communicator, backend::Backend& backend)
    : communicator_(communicator), backend_(backend), turn_(backend.MakeMark()) {}

template <typename Work>
absl::Status StageLink::Timed(const Work& work) {
  if (num_waits_ == waits_.size()) waits_.push_back({backend_.MakeMark(), backend_.MakeMark()});
  const Wait& wait = waits_[num_waits_];
  RETURN_IF_ERROR(backend_.Record(Lane::kOps, *wait.begin));
  RETURN_IF_ERROR(work());
  RETURN_IF_ERROR(backend_.Record(Lane::kOps, *wait.end));
  ++num_waits_;
  return absl::OkStatus();
}

template <typename Transfer>
absl::Status StageLink::Carry(const Transfer& transfer) {
  return Timed([&]() -> absl::Status {
    RETURN_IF_ERROR(backend_.Record(Lane::kOps, *turn_));
    RETURN_IF_ERROR(backend_.Await(*turn_, Lane::kLinks));
    return transfer(backend_.StreamOf(Lane::kLinks));
  });
}

absl::Status StageLink::Receive(TensorView hidden) {
  return Carry([&](Stream stream) -> absl::Status {
    RETURN_IF_ERROR(communicator_.Recv(hidden, stage() - 1, stream))
        << "activations of " << hidden.rows << " tokens";
    RETURN_IF_ERROR(backend_.Record(Lane::kLinks, *turn_));
    return backend_.Await(*turn_, Lane::kOps);
  });
}

absl::Status StageLink::Send(TensorView hidden, std::unique_ptr<backend::Mark>& sent) {
  if (sent == nullptr) sent = backend_.MakeMark();
  return Carry([&](Stream stream) -> absl::Status {
    RETURN_IF_ERROR(communicator_.Send(hidden, stage() + 1, stream))
        << "activations of " << hidden.rows << " tokens";
    return backend_.Record(Lane::kLinks, *sent);
  });
}

absl::Status StageLink::Await(const std::unique_ptr<backend::Mark>& sent) {
  if (sent == nullptr) return absl::OkStatus();
  return Timed([&] { return backend_.Await(*sent, Lane::kOps); });
}

absl::StatusOr<absl::Duration> StageLink::TakeWaited() {
  absl::Duration waited;
  for (; num_waits_ > 0; --num_waits_) {
    const Wait& wait = waits_[num_waits_ - 1];
    ASSIGN_OR_RETURN(const absl::Duration one, backend_.Elapsed(*wait.begin, *wait.end));
    waited += one;
  }
  return waited;
}

}  // namespace longhaul::worker::rank
