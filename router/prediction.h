#pragma once

#include <cstdint>
#include <span>

#include "router/cluster_view.h"

namespace longhaul::router {

// How fast queued executions start, as far as is known.
struct ServiceRate {
  int32_t num_groups = 0;         // healthy ones; 0 = no prediction is possible
  double least_wait_seconds = 0;  // until a prefill has had its turn on the first of them
};

// What the loads of the groups, with this router's charges, predict for a prefill of `own_seconds`.
// Pure.
ServiceRate RateOf(const ClusterView& charged, double own_seconds);

// Seconds of prefill on the healthy group that is fastest at it, of what it has not cached; 0 =
// unknown.
double LeastPrefillSeconds(const ClusterView& view, int32_t prompt_tokens,
                           std::span<const PromptPrefix> prefixes);

}  // namespace longhaul::router
