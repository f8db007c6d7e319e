#pragma once

#include <span>

#include "absl/status/status.h"
#include "worker/comm/communicator.h"
#include "worker/model/shard_sums.h"
#include "worker/tensor.h"

namespace longhaul::worker::rank {

// The sums of a sharded model, over the ranks of one pipeline stage.
//
// Owned by the executor thread. Its errors are the communicator's. A call waits for all ranks, up
// to the communicator's timeout: who stops a rank in the middle of a plan aborts its communicators,
// so that its peers do not wait.
class ShardCommunicator final : public model::ShardSums {
 public:
  // `communicator` has one rank a shard, in order, and outlives this.
  explicit ShardCommunicator(comm::Communicator& communicator);

  absl::Status Sum(TensorView inout) override;
  absl::Status Gather(TensorView part, std::span<const TensorView> parts) override;

 private:
  comm::Communicator& communicator_;
};

}  // namespace longhaul::worker::rank
