#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "worker/backend/backend.h"
#include "worker/comm/communicator.h"
#include "worker/model/shard_sums.h"
#include "worker/tensor.h"

namespace longhaul::worker::rank {

// The sums of a sharded model, over the ranks of one pipeline stage: on a device in a lane of their
// own, beside its ops.
//
// Owned by the executor thread. Its errors are the communicator's. A sum waits for all ranks, on
// the CPU up to the communicator's timeout: who stops a rank in the middle of a plan aborts its
// communicators, so that its peers do not wait.
class ShardCommunicator final : public model::ShardSums {
 public:
  // `communicator` has one rank a shard, in order. Both outlive this.
  ShardCommunicator(comm::Communicator& communicator, backend::Backend& backend);

  int shard() const override { return communicator_.rank(); }
  absl::Status BeginSum(TensorView inout, size_t slot) override;
  absl::Status Await(size_t slot) override;
  absl::Status Gather(TensorView part, std::span<const TensorView> parts) override;

 private:
  struct Slot {
    std::unique_ptr<backend::Mark> begin, end;
    bool pending = false;
  };

  // Enqueues `transfer` behind the ops so far.
  template <typename Transfer>
  absl::Status Begin(Slot& slot, const Transfer& transfer);
  // Ops from now on come behind it.
  absl::Status End(Slot& slot);
  Slot MakeSlot() { return {backend_.MakeMark(), backend_.MakeMark()}; }

  comm::Communicator& communicator_;
  backend::Backend& backend_;
  std::vector<Slot> sums_;
  Slot gather_;
};

}  // namespace longhaul::worker::rank
