#pragma once

#include <cstdint>

#include "absl/status/statusor.h"

namespace longhaul::worker::rank {

// What decides how many KV blocks a rank can keep off the device.
struct OffloadBudgetParams {
  double host_gib = 0;      // memory asked for; 0 = none
  double disk_gib = 0;      // file asked for; 0 = none
  int64_t block_bytes = 0;  // a block in all layers and heads of the rank; > 0
  int64_t free_bytes = 0;   // of the host's memory, now
  int64_t cache_bytes = 0;  // of them for the KV cache on the device, where that is the same memory
  int32_t group_ranks = 1;  // of this rank's group on this host: all take as much
};

// Slots, a block each.
struct OffloadBudget {
  int32_t host_slots = 0;
  int32_t disk_slots = 0;
};

// As many as the settings hold, and nothing else: a group that restarts finds the number it had.
// The file's slots are not counted against the disk here: what it is too full for fails as a move.
// Errors: kInvalidArgument, naming kv-offload-gib (larger than the memory that is free, or less
// than a block) or kv-offload-disk-gib (less than a block).
absl::StatusOr<OffloadBudget> BudgetOffload(const OffloadBudgetParams& params);

}  // namespace longhaul::worker::rank
