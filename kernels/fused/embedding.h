#pragma once

#include <cstdint>

#include "kernels/device_stream.h"
#include "kernels/kv_cache/bfloat16.h"
#include "kernels/parallel.h"
#include "kernels/status.h"

namespace longhaul::kernels {

// out[t] = table[ids[t]].
template <typename Element>
struct EmbeddingParams {
  const Element* table = nullptr;  // [V, E]
  int32_t vocab_size = 0;          // V
  int32_t hidden = 0;              // E
  const int32_t* ids = nullptr;    // [T], each in [0, V)
  int64_t num_rows = 0;            // T >= 0
  Element* out = nullptr;          // [T, E]
};

// kInvalidArgument if an id is outside [0, V); nothing is written then.
KernelStatus EmbeddingCpu(const EmbeddingParams<float>& p, Parallel& parallel);
KernelStatus EmbeddingRef(const EmbeddingParams<float>& p);

// All of it is device memory, ids too, so checking them is the caller's part: an id outside [0, V)
// reads nothing of the table and makes its row NaN. kInvalidArgument unless E is a multiple of 8,
// at most 8,192, and table and out are 16-byte aligned.
KernelStatus EmbeddingCuda(const EmbeddingParams<BFloat16>& p, DeviceStream stream);

}  // namespace longhaul::kernels
