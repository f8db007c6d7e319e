#pragma once

namespace longhaul::cli {

// The published config.json of the 7B model, as far as a model's shape goes.
inline constexpr const char* kConfig7B = R"({
  "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu",
  "hidden_size": 3584, "intermediate_size": 18944, "max_position_embeddings": 1010000,
  "num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4,
  "rms_norm_eps": 1e-05, "rope_theta": 10000000.0, "tie_word_embeddings": false,
  "vocab_size": 152064,
  "dual_chunk_attention_config":
    {"chunk_size": 262144, "local_size": 8192, "original_max_position_embeddings": 262144}
})";

}  // namespace longhaul::cli
