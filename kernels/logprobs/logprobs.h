#pragma once

#include <cstdint>

#include "kernels/status.h"

namespace longhaul::kernels {

inline constexpr int32_t kMaxTopLogprobs = 20;

// Log-softmax of one row of logits: of one token, and of the most probable ones.
struct LogprobsParams {
  const float* logits = nullptr;  // [V], read only
  int32_t vocab_size = 0;         // V >= 1
  int32_t token = 0;              // in [0, V)
  int32_t num_top = 0;            // 0..kMaxTopLogprobs
};

struct Logprobs {
  float logprob = 0;                      // of the token, natural log, <= 0
  int32_t num_top = 0;                    // min(num_top of the parameters, V)
  int32_t top_ids[kMaxTopLogprobs] = {};  // most probable first; of equals the lowest id
  float top_logprobs[kMaxTopLogprobs] = {};
};

// kNotFinite if a logit is NaN or +Inf or all are -Inf; kInvalidArgument for a parameter outside
// its range. `result` is untouched unless kOk. Sums in double, in ascending order of ids: a
// logprob's bits depend on the row alone. Runs on the calling thread: callers spread rows.
KernelStatus LogprobsCpu(const LogprobsParams& p, Logprobs* result);
KernelStatus LogprobsRef(const LogprobsParams& p, Logprobs* result);

}  // namespace longhaul::kernels
