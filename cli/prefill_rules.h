#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "common/model_config.h"
#include "common/planning/cut_rules.h"
#include "common/planning/sparse_settings.h"

namespace longhaul::cli {

// How a model's prompts may be cut with dense or sparse attention.
struct PrefillRules {
  planning::CutRules cuts;
  std::optional<planning::SparseSettings> sparse;

  // `attention` is dense or sparse, which reads the model's sparse_attention_config.json. Errors
  // name the setting or the file.
  static absl::StatusOr<PrefillRules> Make(const std::string& model_dir, const ModelConfig& model,
                                           const std::string& attention, int64_t max_chunk_tokens);
};

}  // namespace longhaul::cli
