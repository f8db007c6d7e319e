#include <cmath>

#include "kernels/fused/rms_norm.h"

namespace longhaul::kernels {

KernelStatus RmsNormRef(const RmsNormParams<float>& p) {
  if (p.num_rows < 0 || p.hidden < 1) return KernelStatus::kInvalidArgument;
  for (int64_t t = 0; t < p.num_rows; ++t) {
    const float* x = p.x + t * p.hidden;
    double sum = 0;
    for (int64_t e = 0; e < p.hidden; ++e) sum += double{x[e]} * x[e];
    const double root = std::sqrt(sum / p.hidden + p.eps);
    for (int64_t e = 0; e < p.hidden; ++e) {
      p.out[t * p.hidden + e] = static_cast<float>(x[e] / root * p.weight[e]);
    }
  }
  return KernelStatus::kOk;
}

}  // namespace longhaul::kernels
