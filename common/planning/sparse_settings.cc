#include "common/planning/sparse_settings.h"

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"

namespace longhaul::planning {
namespace {

constexpr int64_t kThresholdTokens = 32'768;
constexpr int64_t kMostPieceTokens = 16'384;
constexpr int64_t kPieceMultiple = 128;

// The largest divisor of a segment that a piece may be; 0 if there is none.
int64_t PieceOf(int64_t segment_tokens) {
  for (int64_t piece = kMostPieceTokens; piece > 0; piece -= kPieceMultiple) {
    if (segment_tokens % piece == 0) return piece;
  }
  return 0;
}

}  // namespace

absl::StatusOr<SparseSettings> SparseSettings::Load(const std::string& model_dir,
                                                    const ModelConfig& model) {
  const std::string path = model_dir + "/sparse_attention_config.json";
  const auto error = [&path](const std::string& what) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", what));
  };
  if (!model.dual_chunk) return error("the model's config.json has no dual_chunk_attention_config");
  std::ifstream file(path);
  if (!file) return absl::NotFoundError(absl::StrCat("cannot read ", path));
  const nlohmann::json layers = nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
  if (!layers.is_array() || static_cast<int>(layers.size()) != model.num_layers) {
    return error(absl::StrCat("must be a list of ", model.num_layers, " layers"));
  }
  SparseSettings settings;
  settings.piece_tokens = PieceOf(model.dual_chunk->chunk_len());
  if (settings.piece_tokens == 0) {
    return error(absl::StrCat("a segment of ", model.dual_chunk->chunk_len(),
                              " tokens has no piece of a multiple of ", kPieceMultiple));
  }
  settings.begin = (kThresholdTokens + settings.piece_tokens - 1) / settings.piece_tokens *
                   settings.piece_tokens;
  int64_t num_heads = 0;
  for (const nlohmann::json& layer : layers) {
    if (!layer.is_object()) return error("a layer must be an object");
    for (const auto& [head, budget] : layer.items()) {
      if (!budget.is_array() || budget.size() != 4 || budget[0] != "vertical_and_slash" ||
          !budget[1].is_number_unsigned() || !budget[2].is_number_unsigned()) {
        return error(absl::StrCat("head ", head, " is ", budget.dump(),
                                  ", must be [\"vertical_and_slash\", columns, slashes, score]"));
      }
      settings.columns += budget[1].get<double>();
      settings.slashes += budget[2].get<double>();
      ++num_heads;
    }
  }
  if (num_heads == 0) return error("has no heads");
  settings.columns /= static_cast<double>(num_heads);
  settings.slashes /= static_cast<double>(num_heads);
  return settings;
}

}  // namespace longhaul::planning
