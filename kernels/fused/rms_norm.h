#pragma once

#include <cstdint>

#include "kernels/device_stream.h"
#include "kernels/kv_cache/bfloat16.h"
#include "kernels/parallel.h"
#include "kernels/status.h"

namespace longhaul::kernels {

// out = x / sqrt(mean(x^2) + eps) * weight, row by row.
template <typename Element>
struct RmsNormParams {
  const Element* x = nullptr;     // [T, E]
  const float* weight = nullptr;  // [E]
  int64_t num_rows = 0;           // T >= 0
  int32_t hidden = 0;             // E >= 1
  float eps = 0;                  // > 0
  Element* out = nullptr;         // [T, E]; may be x
};

// A row's bits do not depend on T or on the number of threads.
KernelStatus RmsNormCpu(const RmsNormParams<float>& p, Parallel& parallel);
KernelStatus RmsNormRef(const RmsNormParams<float>& p);

// In fp32 within, rounded once. A row's bits do not depend on T. kInvalidArgument unless E is a
// multiple of 8, at most 8,192, and matrices and weight are 16-byte aligned.
KernelStatus RmsNormCuda(const RmsNormParams<BFloat16>& p, DeviceStream stream);

}  // namespace longhaul::kernels
