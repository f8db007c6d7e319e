#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/planning/prefill_costs.h"

namespace longhaul::planning {

// What a stage did until the first token.
struct StageUse {
  double busy_seconds = 0;
  double bubble = 0;  // share of the time in which it was not busy, 0..1
};

struct PipelineRun {
  double ttft_seconds = 0;  // infinite if a chunk may not be run
  double longest_stage_seconds = 0;
  std::vector<StageUse> stages;
};

// Runs one prompt's chunks through a pipeline on a virtual clock. Each stage takes them in order,
// as soon as it is free and has their activations; sends go on while it computes, one after the
// other on each link. At most `plans_in_flight` > 0 chunks are between the first stage's begin and
// the last stage's end: the engine plans no further ahead. O(chunks x stages).
PipelineRun SimulatePrefill(const PrefillCosts& costs, std::span<const Chunk> chunks,
                            int plans_in_flight);

}  // namespace longhaul::planning
