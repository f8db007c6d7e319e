#include "kernels/gemm/gemm.h"

namespace longhaul::kernels {

KernelStatus GemmRef(const GemmParams& p) {
  if (p.m < 0 || p.n < 1 || p.k < 1) return KernelStatus::kInvalidArgument;
  const float* weight = static_cast<const float*>(p.weight);
  for (int64_t row = 0; row < p.m; ++row) {
    for (int64_t col = 0; col < p.n; ++col) {
      double sum = 0;
      for (int64_t i = 0; i < p.k; ++i) sum += double{p.x[row * p.k + i]} * weight[col * p.k + i];
      if (p.bias != nullptr) sum += p.bias[col];
      p.y[row * p.n + col] = static_cast<float>(sum);
    }
  }
  return KernelStatus::kOk;
}

}  // namespace longhaul::kernels
