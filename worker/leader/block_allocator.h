#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "common/types.h"

namespace longhaul::worker::leader {

// Hands out ids of KV blocks and shares them between sequences with a common prefix.
//
// Knows ids and reference counts only: no tensors, no sequences, no clock. Every rank sizes its KV
// cache with the same `num_blocks`, so an id chosen here is valid on all of them.
//
// Thread-compatible: owned by the batch scheduler. All calls are O(number of ids passed).
class BlockAllocator {
 public:
  // `num_blocks` >= 0.
  explicit BlockAllocator(int32_t num_blocks);

  // Takes `count` >= 0 blocks with reference count 1. All or nothing: kResourceExhausted if fewer
  // are free; the state is then unchanged.
  absl::StatusOr<std::vector<BlockId>> Allocate(int32_t count);

  // Adds one reference to each id. Every id must be live (CHECK).
  void Share(std::span<const BlockId> ids);

  // Drops one reference of each id; a block without references is free. Every id must be live
  // (CHECK).
  void Release(std::span<const BlockId> ids);

  int32_t num_blocks() const { return static_cast<int32_t>(reference_count_.size()); }
  int32_t num_free() const { return static_cast<int32_t>(free_list_.size()); }

 private:
  int32_t& LiveCount(BlockId id);

  std::vector<int32_t> reference_count_;  // [num_blocks]
  std::vector<BlockId> free_list_;        // last in, first out: recently used memory is warm
};

}  // namespace longhaul::worker::leader
