#include "common/planning/pipeline_simulator.h"

#include <algorithm>

#include "common/logging.h"

namespace longhaul::planning {

PipelineRun SimulatePrefill(const PrefillCosts& costs, std::span<const Chunk> chunks,
                            int plans_in_flight) {
  CHECK(plans_in_flight > 0) << "plans_in_flight=" << plans_in_flight;
  const int num_stages = costs.num_stages();
  PipelineRun run;
  run.stages.resize(static_cast<size_t>(num_stages));
  std::vector<double> stage_free(static_cast<size_t>(num_stages), 0.0);
  std::vector<double> link_free(static_cast<size_t>(num_stages), 0.0);
  std::vector<double> retired(chunks.size(), 0.0);
  const size_t window = static_cast<size_t>(plans_in_flight);
  for (size_t i = 0; i < chunks.size(); ++i) {
    const bool last = i + 1 == chunks.size();
    const double send_seconds = costs.SendSeconds(chunks[i]);
    double arrival = i < window ? 0.0 : retired[i - window];
    for (int stage = 0; stage < num_stages; ++stage) {
      const size_t s = static_cast<size_t>(stage);
      const double seconds = costs.StageSeconds(stage, chunks[i], last);
      stage_free[s] = std::max(stage_free[s], arrival) + seconds;
      run.stages[s].busy_seconds += seconds;
      run.longest_stage_seconds = std::max(run.longest_stage_seconds, seconds);
      link_free[s] = std::max(link_free[s], stage_free[s]) + send_seconds;
      arrival = link_free[s];
    }
    retired[i] = stage_free.back();
  }
  run.ttft_seconds = chunks.empty() ? 0 : retired.back();
  for (StageUse& stage : run.stages) {
    stage.bubble = run.ttft_seconds > 0 ? 1 - stage.busy_seconds / run.ttft_seconds : 0;
  }
  return run;
}

}  // namespace longhaul::planning
