#include "router/placement.h"

#include <algorithm>
#include <tuple>

namespace longhaul::router {
namespace {

int64_t FreeKvBlocks(const Group& group) {
  return group.load.free_kv_blocks - group.charge.kv_blocks;
}

bool HasRoomNow(const Group& group, const PlacementRequest& request) {
  const bool avoided =
      std::find(request.avoid.begin(), request.avoid.end(),
                GroupLife{group.address, group.incarnation}) != request.avoid.end();
  if (avoided) return false;
  if (group.IsLong(request.prompt_tokens) &&
      group.charge.waiting_long >= std::max(group.limits.max_waiting_long, 1)) {
    return false;
  }
  // An idle group frees nothing by waiting: its leader is the better judge of what fits.
  return group.num_requests() == 0 || FreeKvBlocks(group) >= KvBlocksFor(request.prompt_tokens);
}

int32_t CachedTokens(const Group& group, const PlacementRequest& request) {
  return group.CachedTokens(request.prefixes, request.prompt_tokens);
}

}  // namespace

Placement Place(const ClusterView& view, const PlacementRequest& request) {
  Placement placement;
  int32_t num_healthy = 0;
  int32_t num_long_enough = 0;
  const Group* best = nullptr;
  const auto rank = [&request](const Group& group) {
    const int32_t cached = CachedTokens(group, request);
    const double own = group.PrefillSeconds(request.prompt_tokens, cached);
    return std::tuple(group.WaitSeconds(own) + own, group.backlog_seconds(), group.num_requests(),
                      -cached, -FreeKvBlocks(group));
  };
  const int64_t total_tokens = int64_t{request.prompt_tokens} + request.max_tokens;
  for (size_t i = 0; i < view.groups.size(); ++i) {
    const Group& group = view.groups[i];
    if (!group.healthy() || group.limits.model != request.model) continue;
    ++num_healthy;
    placement.max_model_len = std::max(placement.max_model_len, group.limits.max_model_len);
    if (total_tokens > group.limits.max_model_len) continue;
    ++num_long_enough;
    if (!HasRoomNow(group, request)) continue;
    if (best == nullptr || rank(group) < rank(*best)) {
      best = &group;
      placement.group = i;
    }
  }
  if (best == nullptr) {
    placement.outcome = num_healthy == 0       ? PlacementOutcome::kNoHealthy
                        : num_long_enough == 0 ? PlacementOutcome::kTooLong
                                               : PlacementOutcome::kFull;
    return placement;
  }
  placement.outcome = PlacementOutcome::kPlaced;
  placement.charge.requests = 1;
  placement.charge.waiting_long = best->IsLong(request.prompt_tokens) ? 1 : 0;
  placement.charge.seconds =
      best->PrefillSeconds(request.prompt_tokens, CachedTokens(*best, request));
  placement.charge.kv_blocks = KvBlocksFor(request.prompt_tokens);
  return placement;
}

}  // namespace longhaul::router
