#pragma once

#include <cstdint>

#include "absl/status/statusor.h"

namespace longhaul::worker::rank {

// What decides how many KV blocks a rank offers.
struct KvBudgetParams {
  double kv_cache_gib = 0;     // asked for; 0 = automatic
  int64_t free_bytes = 0;      // of the host's memory, now
  int64_t block_bytes = 0;     // a block in all layers and heads of the rank; > 0
  int64_t longest_prompt = 0;  // tokens
  int32_t ranks_on_host = 1;   // of all groups
  int32_t group_ranks = 1;     // of this rank's group on this host, at most ranks_on_host
};

// Blocks; at least one each.
struct KvBudget {
  int64_t capacity = 0;
  // What the rank would hold if its group insisted: a group that restarts wants what it had, and
  // an automatic share may be smaller by then, because other groups have filled theirs.
  int64_t limit = 0;
};

// The number asked for; automatically one prompt of full length and 32K tokens of short ones, at
// most the rank's share of half of the memory that is free.
//
// All ranks of a group start together, so each may count on its part of what is free then; a cache
// is touched as it is used, so one that is too large would show only later, and as a kill. Errors:
// kInvalidArgument, naming kv-cache-gib (larger than the memory that is free, or less than a
// block).
absl::StatusOr<KvBudget> BudgetKv(const KvBudgetParams& params);

// What decides how many KV blocks a rank offers on a device that is its own.
struct DeviceKvBudgetParams {
  double kv_cache_gib = 0;       // asked for; 0 = automatic
  double utilization = 1;        // part of free_bytes that the rank may take in all, (0, 1]
  int64_t free_bytes = 0;        // of the device's memory, before anything is loaded
  int64_t weight_bytes = 0;      // of this rank's part of the model
  int64_t activation_bytes = 0;  // of the largest unit, and what libraries take
  int64_t block_bytes = 0;       // a block in all layers and heads of the rank; > 0
};

// The number asked for; automatically all that fits:
//   (utilization * free_bytes - weight_bytes - activation_bytes) / block_bytes.
// `limit` is the same with utilization 1. A device's memory is taken at once, so what does not fit
// shows when the rank loads. Errors: kInvalidArgument, naming kv-cache-gib (larger than the limit,
// or less than a block) or gpu-memory-utilization (nothing is left).
absl::StatusOr<KvBudget> BudgetDeviceKv(const DeviceKvBudgetParams& params);

}  // namespace longhaul::worker::rank
