#pragma once

#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "worker/backend/backend.h"
#include "worker/comm/communicator.h"
#include "worker/tensor.h"

namespace longhaul::worker::rank {

// What passes between a pipeline stage and its neighbours: residual streams, in the same order on
// both sides of a border. On a device they travel beside its ops: a stage that sends goes on with
// its next unit.
//
// Knows matrices only. Owned by the executor thread. Errors: the communicator's.
class StageLink {
 public:
  // `communicator` has one rank a stage, in order. Both outlive this.
  StageLink(comm::Communicator& communicator, backend::Backend& backend);

  int stage() const { return communicator_.rank(); }
  int num_stages() const { return communicator_.size(); }

  // Ops that are enqueued from now on see `hidden` filled by the stage before.
  absl::Status Receive(TensorView hidden);
  // Gives `hidden`, as ops enqueued so far leave it, to the stage behind. It must stay as it is
  // until ops are enqueued behind Await of the same `sent`; null becomes a mark.
  absl::Status Send(TensorView hidden, std::unique_ptr<backend::Mark>& sent);
  // Ops that are enqueued from now on may overwrite what was sent. Null: nothing was.
  absl::Status Await(const std::unique_ptr<backend::Mark>& sent);

  // How long ops, or this thread, waited for neighbours since the last call: the transfer included.
  // After the backend's Finish.
  absl::StatusOr<absl::Duration> TakeWaited();

 private:
  struct Wait {
    std::unique_ptr<backend::Mark> begin, end;
  };

  // Does `work`, and counts for how long it has ops wait.
  template <typename Work>
  absl::Status Timed(const Work& work);
  // Enqueues `transfer` in the lane of links, behind the ops so far.
  template <typename Transfer>
  absl::Status Carry(const Transfer& transfer);

  comm::Communicator& communicator_;
  backend::Backend& backend_;
  std::unique_ptr<backend::Mark> turn_;  // where one lane waits for the other
  std::vector<Wait> waits_;              // the first num_waits_ since the last TakeWaited
  size_t num_waits_ = 0;
};

}  // namespace longhaul::worker::rank
