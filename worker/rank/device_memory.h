#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "common/model_config.h"
#include "common/planning/memory_budget.h"
#include "worker/group_shape.h"
#include "worker/rank/rank_config.h"

namespace longhaul::worker::rank {

// What a rank takes of a device that is its own, before anything is allocated there: counted as
// `longhaul plan` counts it, of `free_bytes` instead of a card's size. Logs it.
//
// Errors: kInvalidArgument if max-model-len is set and does not fit on every rank of the group, nor
// kv-cache-gib says how many blocks to have: planning::CheckMemory.
absl::StatusOr<planning::MemoryBudget> BudgetDeviceMemory(const RankConfig& config,
                                                          const ModelConfig& model,
                                                          const GroupShape& shape,
                                                          int64_t free_bytes);

}  // namespace longhaul::worker::rank
