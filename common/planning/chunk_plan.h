#pragma once

#include <vector>

#include "common/planning/pipeline_simulator.h"
#include "common/planning/prefill_costs.h"

namespace longhaul::planning {

// How a prompt is cut, and what the simulation says of it.
struct ChunkPlan {
  std::vector<Chunk> chunks;
  PipelineRun run;
};

}  // namespace longhaul::planning
