#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/parallel.h"
#include "kernels/status.h"

namespace longhaul::kernels {

enum class WeightDtype : uint8_t { kFloat32 = 0 };

// y = x W^T + bias: a linear layer as Hugging Face stores it.
struct GemmParams {
  // Inputs.
  const float* x = nullptr;      // [M, K]
  const void* weight = nullptr;  // [N, K] of weight_dtype
  WeightDtype weight_dtype = WeightDtype::kFloat32;
  const float* bias = nullptr;  // [N], or null
  int64_t m = 0;                // rows >= 0
  int64_t n = 0;                // >= 1
  int64_t k = 0;                // >= 1
  // Scratch of GemmCpuWorkspaceBytes(p) bytes, 64-byte aligned; unused by the reference.
  void* workspace = nullptr;
  // Output; overlaps no input.
  float* y = nullptr;  // [M, N]
};

// A row's bits depend on that row, the weight and the bias only: not on M, not on where the row
// stands, not on the number of threads.
size_t GemmCpuWorkspaceBytes(const GemmParams& p);
KernelStatus GemmCpu(const GemmParams& p, Parallel& parallel);
KernelStatus GemmRef(const GemmParams& p);

}  // namespace longhaul::kernels
