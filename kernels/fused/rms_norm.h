#pragma once

#include <cstdint>

#include "kernels/device_stream.h"
#include "kernels/kv_cache/bfloat16.h"
#include "kernels/parallel.h"
#include "kernels/status.h"

namespace longhaul::kernels {

// out = x / sqrt(mean(x^2) + eps) * weight, row by row; with `residual`, x += residual first.
template <typename Element>
struct RmsNormParams {
  Element* x = nullptr;               // [T, E]; written only when residual is given
  const Element* residual = nullptr;  // [T, E] added to x before the norm, or null
  const float* weight = nullptr;      // [E]
  int64_t num_rows = 0;               // T >= 0
  int32_t hidden = 0;                 // E >= 1
  float eps = 0;                      // > 0
  Element* out = nullptr;             // [T, E]; may be x only when residual is null
};

// A row's bits do not depend on T or on the number of threads.
KernelStatus RmsNormCpu(const RmsNormParams<float>& p, Parallel& parallel);
KernelStatus RmsNormRef(const RmsNormParams<float>& p);

// In fp32 within. With residual, x becomes the sum rounded to bf16, and the norm is of that
// rounded x: the same as AddCuda, then RmsNormCuda. A row's bits do not depend on T.
// kInvalidArgument unless E is a multiple of 8, at most 8,192, and matrices and weight are 16-byte
// aligned.
KernelStatus RmsNormCuda(const RmsNormParams<BFloat16>& p, DeviceStream stream);

}  // namespace longhaul::kernels
