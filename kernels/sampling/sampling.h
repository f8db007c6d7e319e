#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/logprobs/logprobs.h"
#include "kernels/status.h"

namespace longhaul::kernels {

// Chooses one token from one row of logits. The scores are changed in this order (that of Hugging
// Face and vLLM), each step only if its parameter is not the neutral value:
//   1. repetition penalty of every token in `seen`: s < 0 ? s * penalty : s / penalty
//   2. s -= presence_penalty * (count > 0) + frequency_penalty * count
//   3. s += bias
//   4. banned tokens: -inf
//   5. temperature 0: the largest score wins, the lowest id of equals. Else s /= temperature
//   6. top_k: the k largest stay; of equal scores the lowest ids
//   7. top_p: of the softmax over what is left, the smallest set of largest probabilities whose sum
//      reaches top_p stays (never empty; of equals the lowest ids)
//   8. min_p: what is less probable than min_p times the most probable goes
//   9. the draw: u = SamplingUniform(seed, token_index) picks, over ascending ids, the first token
//      whose cumulative probability exceeds u
// Logprobs are those of the raw logits, before all of this.
struct SamplingParams {
  // Inputs.
  const float* logits = nullptr;  // [V], read only
  int32_t vocab_size = 0;         // V >= 1
  float temperature = 1;          // >= 0; 0 = greedy
  int32_t top_k = 0;              // 0 = off
  float top_p = 1;                // (0, 1]; 1 = off
  float min_p = 0;                // [0, 1]; 0 = off
  float repetition_penalty = 1;   // > 0; 1 = off
  const uint64_t* seen =
      nullptr;  // [ceil(V/64)] bit id%64 of word id/64: in prompt or output; null = none
  float presence_penalty = 0;
  float frequency_penalty = 0;
  const int32_t* counts = nullptr;     // [V] occurrences that steps 2 looks at; null = none
  const int32_t* bias_ids = nullptr;   // [num_bias] in [0, V), may repeat (biases add up)
  const float* bias_values = nullptr;  // [num_bias] finite
  int32_t num_bias = 0;
  const int32_t* banned_ids = nullptr;  // [num_banned] in [0, V)
  int32_t num_banned = 0;
  uint64_t seed = 0;
  uint64_t token_index = 0;      // which draw of the sequence this is: its n-th output token
  int32_t num_top_logprobs = 0;  // 0..kMaxTopLogprobs
  // Scratch of SamplingWorkspaceBytes(vocab_size) bytes, 8-byte aligned; unused by the reference.
  void* workspace = nullptr;
};

struct SamplingResult : Logprobs {  // those of `token`
  int32_t token = -1;
};

// The uniform in [0, 1) that a draw uses: a pure function of its arguments (Philox4x32-10 keyed by
// the seed, counter token_index), so a replayed sequence draws the same tokens.
double SamplingUniform(uint64_t seed, uint64_t token_index);

size_t SamplingWorkspaceBytes(int32_t vocab_size);

// kNotFinite if a logit is NaN or +Inf or all are -Inf; kNoCandidate if bans leave nothing;
// kInvalidArgument for a parameter outside its range. `result` is untouched unless kOk.
// Runs on the calling thread: rows of a batch are independent, so callers spread rows.
KernelStatus SamplingCpu(const SamplingParams& p, SamplingResult* result);
KernelStatus SamplingRef(const SamplingParams& p, SamplingResult* result);

}  // namespace longhaul::kernels
