#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/types.h"

namespace longhaul {

// Dual Chunk Attention (arXiv:2402.17463) as `dual_chunk_attention_config` sets it. Tokens.
struct DualChunkConfig {
  int32_t chunk_size = 0;
  int32_t local_size = 0;
  int32_t original_max_position_embeddings = 0;  // attention temperature is 1 up to this length
  int32_t chunk_len() const { return chunk_size - local_size; }  // a segment
};

// Which length the attention temperature f follows (gpu-notes: `position` or `request`).
enum class AttentionTemperature { kPosition, kRequest };

// config.json of a Qwen2ForCausalLM model, as published. Immutable value.
struct ModelConfig {
  int32_t num_layers = 0;
  int32_t hidden_size = 0;        // E
  int32_t intermediate_size = 0;  // I
  int32_t num_heads = 0;          // Hq
  int32_t num_kv_heads = 0;       // Hkv, divides Hq
  int32_t head_dim = 0;           // D; hidden_size / num_heads where the file has none
  int32_t vocab_size = 0;         // V
  int32_t max_position_embeddings = 0;
  double rope_theta = 0;
  double rms_norm_eps = 0;
  bool tie_word_embeddings = false;
  std::optional<DualChunkConfig> dual_chunk;  // absent: plain RoPE

  // Reads and checks `model_dir`/config.json. Errors name file and field: kNotFound (no file),
  // kInvalidArgument (not JSON, missing or impossible value), kUnimplemented (another architecture,
  // rope_scaling, sliding window, quantization: named).
  static absl::StatusOr<ModelConfig> Load(const std::string& model_dir);
};

// generation_config.json: defaults for what a request leaves open. A missing file gives the
// defaults below and the end token of config.json.
struct GenerationDefaults {
  bool do_sample = true;  // false: temperature defaults to 0
  double temperature = 1.0;
  double top_p = 1.0;
  int32_t top_k = 0;
  double repetition_penalty = 1.0;
  std::vector<TokenId> eos_token_ids;

  static absl::StatusOr<GenerationDefaults> Load(const std::string& model_dir);
};

}  // namespace longhaul
