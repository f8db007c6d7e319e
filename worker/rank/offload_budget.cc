#include "worker/rank/offload_budget.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/status_macros.h"
#include "worker/rank/disk_tier.h"

namespace longhaul::worker::rank {
namespace {

constexpr double kGib = int64_t{1} << 30;

absl::StatusOr<int32_t> Slots(const char* setting, double gib, int64_t slot_bytes) {
  const int64_t slots = static_cast<int64_t>(gib * kGib) / slot_bytes;
  if (gib > 0 && slots == 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        setting, " ", gib, " holds not even one KV block of ", slot_bytes, " bytes: raise it"));
  }
  return static_cast<int32_t>(std::min<int64_t>(slots, std::numeric_limits<int32_t>::max()));
}

}  // namespace

absl::StatusOr<OffloadBudget> BudgetOffload(const OffloadBudgetParams& params) {
  OffloadBudget budget;
  ASSIGN_OR_RETURN(budget.host_slots, Slots("kv-offload-gib", params.host_gib, params.block_bytes));
  ASSIGN_OR_RETURN(budget.disk_slots, Slots("kv-offload-disk-gib", params.disk_gib,
                                            DiskTier::SlotBytes(params.block_bytes)));
  // Touched as it is used, so too much would show only later, and as a kill.
  const int64_t left = params.free_bytes / params.group_ranks - params.cache_bytes;
  if (budget.host_slots > std::max<int64_t>(left, 0) / params.block_bytes) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "kv-offload-gib is %g for each of the group's %d ranks on this host, free memory is %.1f "
        "GiB, of which each KV cache may take %.1f GiB: lower kv-offload-gib or free memory",
        params.host_gib, params.group_ranks, static_cast<double>(params.free_bytes) / kGib,
        static_cast<double>(params.cache_bytes) / kGib));
  }
  return budget;
}

}  // namespace longhaul::worker::rank
