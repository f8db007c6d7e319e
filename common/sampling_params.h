#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "common/types.h"

namespace longhaul {

// How the next token is chosen, every default resolved. Ranges are checked by ValidateSampling.
struct SamplingParams {
  float temperature = 1.0f;         // [0, 2]; 0 = greedy
  float top_p = 1.0f;               // (0, 1]
  int32_t top_k = 0;                // 0 = off, else 1..vocabulary
  float min_p = 0.0f;               // [0, 1]
  float repetition_penalty = 1.0f;  // (0, 10]; prompt and output
  float presence_penalty = 0.0f;    // [-2, 2]; output
  float frequency_penalty = 0.0f;   // [-2, 2]; output
  uint64_t seed = 0;
  std::vector<std::pair<TokenId, float>> logit_bias;  // ascending ids; values in [-100, 100]
  std::optional<int32_t> top_logprobs;                // 0..20; present = report logprobs
  std::optional<int32_t> prompt_logprobs;             // the same for the prompt's tokens
};

// When generation ends, every default resolved.
struct StopParams {
  int32_t max_tokens = 0;  // 0 = prefill only
  int32_t min_tokens = 0;
  bool ignore_eos = false;
  std::vector<TokenId> stop_token_ids;  // besides the model's end tokens
};

struct TokenLogprob {
  TokenId token = 0;
  float logprob = 0;  // natural logarithm
};

// One sampled token, or one of a prompt, with its logprobs if they were asked for.
struct GeneratedToken {
  TokenId token = 0;
  std::optional<float> logprob;
  std::vector<TokenLogprob> top_logprobs;  // most probable first
};

}  // namespace longhaul
