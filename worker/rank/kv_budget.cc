#include "worker/rank/kv_budget.h"

#include <algorithm>
#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/types.h"

namespace longhaul::worker::rank {
namespace {

constexpr int64_t kShortRequestBlocks = 128;
constexpr int64_t kMaxBlocks = std::numeric_limits<int32_t>::max();
constexpr double kGib = int64_t{1} << 30;

}  // namespace

absl::StatusOr<KvBudget> BudgetKv(const KvBudgetParams& params) {
  const int64_t group_share = params.free_bytes / params.group_ranks / params.block_bytes;
  KvBudget budget;
  if (params.kv_cache_gib == 0) {
    const int64_t longest = (params.longest_prompt + kKvBlockTokens - 1) / kKvBlockTokens;
    const int64_t share = params.free_bytes / 2 / params.ranks_on_host / params.block_bytes;
    budget = {.capacity = std::min(longest + kShortRequestBlocks, share), .limit = group_share};
  } else {
    const int64_t blocks = static_cast<int64_t>(params.kv_cache_gib * kGib) / params.block_bytes;
    budget = {.capacity = blocks, .limit = blocks};
    if (blocks > group_share) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "kv-cache-gib is %g for each of the group's %d ranks on this host, free memory is %.1f "
          "GiB: lower kv-cache-gib or free memory",
          params.kv_cache_gib, params.group_ranks, static_cast<double>(params.free_bytes) / kGib));
    }
  }
  if (budget.capacity < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("kv-cache-gib ", params.kv_cache_gib, " holds not even one block of ",
                     kKvBlockTokens, " tokens of this model: raise it, or free memory"));
  }
  budget.capacity = std::min(budget.capacity, kMaxBlocks);
  budget.limit = std::min(std::max(budget.limit, budget.capacity), kMaxBlocks);
  return budget;
}

absl::StatusOr<KvBudget> BudgetDeviceKv(const DeviceKvBudgetParams& params) {
  const auto blocks_of = [&params](double bytes) {
    const auto whole = static_cast<int64_t>(std::max(bytes, 0.0)) / params.block_bytes;
    return std::min(whole, kMaxBlocks);
  };
  const auto free = static_cast<double>(params.free_bytes);
  const auto taken = static_cast<double>(params.weight_bytes + params.activation_bytes);
  const KvBudget budget{.capacity = params.kv_cache_gib > 0
                                        ? blocks_of(params.kv_cache_gib * kGib)
                                        : blocks_of(params.utilization * free - taken),
                        .limit = blocks_of(free - taken)};
  if (budget.capacity >= 1 && budget.capacity <= budget.limit) return budget;
  const std::string memory = absl::StrFormat(
      "of the %.2f GiB that are free on the device, weights take %.2f and activations %.2f",
      free / kGib, static_cast<double>(params.weight_bytes) / kGib,
      static_cast<double>(params.activation_bytes) / kGib);
  if (params.kv_cache_gib == 0) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "gpu-memory-utilization is %g, which leaves no KV cache: %s; raise it, or lower "
        "max-num-batched-tokens",
        params.utilization, memory));
  }
  if (budget.capacity < 1) {
    return absl::InvalidArgumentError(absl::StrCat("kv-cache-gib ", params.kv_cache_gib,
                                                   " holds not even one block of ", kKvBlockTokens,
                                                   " tokens of this model: raise it"));
  }
  return absl::InvalidArgumentError(
      absl::StrFormat("kv-cache-gib is %g, but %s: lower it", params.kv_cache_gib, memory));
}

}  // namespace longhaul::worker::rank
