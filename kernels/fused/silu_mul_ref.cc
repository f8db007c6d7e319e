#include <cmath>

#include "kernels/fused/silu_mul.h"

namespace longhaul::kernels {

KernelStatus SiluMulRef(const SiluMulParams<float>& p) {
  if (p.num_rows < 0 || p.cols < 1) return KernelStatus::kInvalidArgument;
  for (int64_t t = 0; t < p.num_rows; ++t) {
    for (int64_t i = 0; i < p.cols; ++i) {
      const double gate = p.gate[t * p.gate_stride + i];
      const double up = p.up[t * p.up_stride + i];
      p.out[t * p.cols + i] = static_cast<float>(gate / (1 + std::exp(-gate)) * up);
    }
  }
  return KernelStatus::kOk;
}

}  // namespace longhaul::kernels
