#pragma once

#include <cstdint>

#include "kernels/parallel.h"
#include "kernels/status.h"

namespace longhaul::kernels {

// out = x / sqrt(mean(x^2) + eps) * weight, row by row; with `residual`, x += residual first.
struct RmsNormParams {
  float* x = nullptr;               // [T, E]; written only when residual is given
  const float* residual = nullptr;  // [T, E] added to x before the norm, or null
  const float* weight = nullptr;    // [E]
  int64_t num_rows = 0;             // T >= 0
  int32_t hidden = 0;               // E >= 1
  float eps = 0;                    // > 0
  float* out = nullptr;             // [T, E]; may be x only when residual is null
};

// A row's bits do not depend on T or on the number of threads.
KernelStatus RmsNormCpu(const RmsNormParams& p, Parallel& parallel);
KernelStatus RmsNormRef(const RmsNormParams& p);

}  // namespace longhaul::kernels
