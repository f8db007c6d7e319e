#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/plan_config.h"
#include "common/planning/chunk_plan.h"
#include "common/planning/short_load.h"

namespace longhaul::cli {

// The prompt beside short requests, with the limits on units and without any.
struct SharedForecast {
  planning::ShortLoad load;
  planning::UnitLimits limits;
  planning::SharedRun guarded;
  planning::SharedRun unguarded;
};

// What one prompt's prefill takes on a group of GPUs, by simulation: with the chunks that are best,
// with the best fixed chunk, and on one card that nothing interrupts.
struct PrefillForecast {
  std::string gpu;  // name of the cost table
  std::string gpu_description;
  std::string attention;
  std::vector<int> layers;  // of each stage
  int64_t prompt_tokens = 0;
  double max_step_ms = 0;  // 0 = any
  int plans_in_flight = 0;
  planning::ChunkPlan dynamic;
  planning::ChunkPlan best_fixed;
  planning::ChunkPlan one_stage;
  std::optional<SharedForecast> shared;  // if short requests were asked for

  // Time on one card / (cards x time to first token).
  double Efficiency(const planning::ChunkPlan& plan) const;
  // What the plan loses against cards that always work: 1 / efficiency - 1.
  double Loss(const planning::ChunkPlan& plan) const;
  // What whole layers allow: the mean number of layers / that of the largest stage.
  double EfficiencyBound() const;

  // Reads the model's config.json and nothing else. Errors name the setting or the file.
  static absl::StatusOr<PrefillForecast> Make(const std::string& model_dir,
                                              const PlanConfig& config);
};

}  // namespace longhaul::cli
