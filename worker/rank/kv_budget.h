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

}  // namespace longhaul::worker::rank
