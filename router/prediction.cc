#include "router/prediction.h"

#include <algorithm>
#include <optional>

namespace longhaul::router {

ServiceRate RateOf(const ClusterView& charged) {
  ServiceRate rate;
  for (const Group& group : charged.groups) {
    if (!group.healthy()) continue;
    const double backlog = group.load.queued_seconds + group.charge.seconds;
    rate.least_backlog_seconds =
        rate.num_groups == 0 ? backlog : std::min(rate.least_backlog_seconds, backlog);
    ++rate.num_groups;
  }
  return rate;
}

double LeastPrefillSeconds(const ClusterView& view, int32_t prompt_tokens) {
  std::optional<double> least;
  for (const Group& group : view.groups) {
    if (!group.healthy()) continue;
    const double seconds = group.PrefillSeconds(prompt_tokens);
    least = std::min(least.value_or(seconds), seconds);
  }
  return least.value_or(0);
}

}  // namespace longhaul::router
