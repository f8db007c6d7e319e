#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cli/plan_config.h"
#include "common/planning/memory_budget.h"

namespace longhaul::cli {

// Whether a model fits on a group of cards with requests of a given length, and how long the first
// token of one takes then.
struct MemoryForecast {
  std::string gpu;  // name of the cost table
  std::string gpu_description;
  std::vector<int> layers;  // of each pipeline stage
  int32_t num_shards = 1;   // cards of a stage
  int64_t card_bytes = 0;   // of memory
  planning::MemoryLimits limits;
  planning::MemoryBudget tightest;  // of the group's ranks
  absl::Status fits;                // CheckMemory
  // What is published as the memory that 1M tokens need, all cards together, bytes; 0 for a model
  // of other sizes.
  int64_t published_bytes = 0;
  std::string attention;
  int64_t prompt_tokens = 0;
  std::optional<double> ttft_seconds;  // if it fits

  int num_cards() const { return static_cast<int>(layers.size()) * num_shards; }

  // Reads the model's config.json, and for sparse attention its sparse_attention_config.json.
  // Errors name the setting or the file; what does not fit is no error here.
  static absl::StatusOr<MemoryForecast> Make(const std::string& model_dir,
                                             const PlanConfig& config);
};

}  // namespace longhaul::cli
