#pragma once

#include <span>

#include "absl/status/status.h"
#include "worker/tensor.h"

namespace longhaul::worker::model {

// What the shards of a model, one a tensor-parallel rank, do together between their own parts of
// the work.
//
// Knows matrices only: not what they mean, nor how they travel. Every rank makes the same calls in
// the same order. Owned by the executor thread. Errors: those of the transfer, kUnavailable.
class ShardSums {
 public:
  virtual ~ShardSums() = default;

  // Each element becomes the sum of all ranks' elements: with the same bits on every rank, and
  // whatever its place and the number of rows. fp32.
  virtual absl::Status Sum(TensorView inout) = 0;

  // Brings every rank's `part` to rank 0, where parts[t] becomes that of rank t; parts[0] is `part`
  // itself. `parts` is empty on the other ranks.
  virtual absl::Status Gather(TensorView part, std::span<const TensorView> parts) = 0;
};

}  // namespace longhaul::worker::model
