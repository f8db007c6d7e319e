#include "router/prediction.h"

#include <algorithm>
#include <optional>

namespace longhaul::router {

ServiceRate RateOf(const ClusterView& charged, double own_seconds) {
  ServiceRate rate;
  for (const Group& group : charged.groups) {
    if (!group.healthy()) continue;
    const double wait = group.WaitSeconds(own_seconds);
    rate.least_wait_seconds = rate.num_groups == 0 ? wait : std::min(rate.least_wait_seconds, wait);
    ++rate.num_groups;
  }
  return rate;
}

double LeastPrefillSeconds(const ClusterView& view, int32_t prompt_tokens,
                           std::span<const PromptPrefix> prefixes) {
  std::optional<double> least;
  for (const Group& group : view.groups) {
    if (!group.healthy()) continue;
    const double seconds =
        group.PrefillSeconds(prompt_tokens, group.CachedTokens(prefixes, prompt_tokens));
    least = std::min(least.value_or(seconds), seconds);
  }
  return least.value_or(0);
}

}  // namespace longhaul::router
