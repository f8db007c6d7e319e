#pragma once

#include <cstdint>

#include "kernels/parallel.h"
#include "kernels/status.h"

namespace longhaul::kernels {

// out[t] = table[ids[t]].
struct EmbeddingParams {
  const float* table = nullptr;  // [V, E]
  int32_t vocab_size = 0;        // V
  int32_t hidden = 0;            // E
  const int32_t* ids = nullptr;  // [T], each in [0, V)
  int64_t num_rows = 0;          // T >= 0
  float* out = nullptr;          // [T, E]
};

// kInvalidArgument if an id is outside [0, V); nothing is written then.
KernelStatus EmbeddingCpu(const EmbeddingParams& p, Parallel& parallel);
KernelStatus EmbeddingRef(const EmbeddingParams& p);

}  // namespace longhaul::kernels
