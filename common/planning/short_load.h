#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "common/planning/gpu_prefill_costs.h"
#include "common/planning/prefill_costs.h"

namespace longhaul::planning {

// Short requests that arrive beside a long prompt, at random times, whether those before them are
// answered or not.
struct ShortLoad {
  double requests_per_second = 1;   // > 0
  int64_t most_prompt_tokens = 64;  // each has 1 to so many
  int32_t output_tokens = 4;        // > 0
  uint64_t seed = 1;
};

// How long a unit of the long prompt may take: what --step-target-ms and --max-step-ms say.
struct UnitLimits {
  double seconds_beside_others = std::numeric_limits<double>::infinity();
  double seconds_alone = std::numeric_limits<double>::infinity();
};

struct SharedRun {
  double long_ttft_seconds = 0;
  double long_busy_seconds = 0;            // in units of the long prompt
  std::vector<double> short_ttft_seconds;  // ascending; of those answered before the long prompt
};

// Runs a long prompt's chunks and the short requests on one card, on a virtual clock. A unit of the
// long prompt is as many layers of a chunk as its limit allows, one at least: a chunk need not end
// for others to have their turn. Between two such units all short requests that are there get one
// unit together, with their whole prompts or their next tokens. `costs` has one stage.
SharedRun SimulateShortBesideLong(const GpuPrefillCosts& costs, std::span<const Chunk> chunks,
                                  const UnitLimits& limits, const ShortLoad& load);

// The value that a share of the ascending values, 0 to 1, does not exceed. 0 if there are none.
double Percentile(std::span<const double> ascending, double share);

}  // namespace longhaul::planning
