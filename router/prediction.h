#pragma once

#include <cstdint>

#include "router/cluster_view.h"

namespace longhaul::router {

// How fast queued executions start, as far as is known.
struct ServiceRate {
  int32_t num_groups = 0;            // healthy ones; 0 = no prediction is possible
  double least_backlog_seconds = 0;  // until the first of them starts something new
};

// What the loads of the groups, with this router's charges, predict. Pure.
ServiceRate RateOf(const ClusterView& charged);

// Seconds of prefill on the healthy group that is fastest at it; 0 = unknown.
double LeastPrefillSeconds(const ClusterView& view, int32_t prompt_tokens);

}  // namespace longhaul::router
