#pragma once

#include <cstddef>
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

  // Which rank this is, from 0.
  virtual int shard() const = 0;

  // Begins what ops that are enqueued behind Await(slot) see done: each element becomes the sum of
  // all ranks' elements, as ops enqueued so far leave them. With the same bits on every rank, and
  // whatever its place and the number of rows. Of the backend's activation type. A slot holds one
  // sum at a time; small numbers, from 0.
  virtual absl::Status BeginSum(TensorView inout, size_t slot) = 0;
  // OK also where no sum of the slot is pending.
  virtual absl::Status Await(size_t slot) = 0;

  // Brings every rank's `part` to rank 0, where parts[t] becomes that of rank t; parts[0] is `part`
  // itself. `parts` is empty on the other ranks.
  virtual absl::Status Gather(TensorView part, std::span<const TensorView> parts) = 0;
};

}  // namespace longhaul::worker::model
