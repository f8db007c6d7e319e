#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "common/model_config.h"

namespace longhaul::planning {

// Vertical-slash sparse prefill of a model, as far as its cost goes: pieces from `begin` on attend
// only to chosen columns and diagonals of keys, whose number does not grow with the history.
struct SparseSettings {
  int64_t piece_tokens = 0;  // unit of selection: whole pieces are run together
  int64_t begin = 0;         // first piece behind the threshold; dense before it
  double columns = 0;        // chosen for each head and piece, the mean over heads and layers
  double slashes = 0;        // diagonals, likewise

  // From `model_dir`/sparse_attention_config.json as published. Errors name the file: kNotFound,
  // kInvalidArgument (another format, or a model without Dual Chunk Attention).
  static absl::StatusOr<SparseSettings> Load(const std::string& model_dir,
                                             const ModelConfig& model);
};

}  // namespace longhaul::planning
