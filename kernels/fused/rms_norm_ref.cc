#include <cmath>
#include <vector>

#include "kernels/fused/rms_norm.h"

namespace longhaul::kernels {

KernelStatus RmsNormRef(const RmsNormParams<float>& p) {
  if (p.num_rows < 0 || p.hidden < 1) return KernelStatus::kInvalidArgument;
  std::vector<double> row(p.hidden);
  for (int64_t t = 0; t < p.num_rows; ++t) {
    double sum = 0;
    for (int64_t e = 0; e < p.hidden; ++e) {
      row[e] = p.x[t * p.hidden + e];
      if (p.residual != nullptr) {
        row[e] += p.residual[t * p.hidden + e];
        p.x[t * p.hidden + e] = static_cast<float>(row[e]);
      }
      sum += row[e] * row[e];
    }
    const double root = std::sqrt(sum / p.hidden + p.eps);
    for (int64_t e = 0; e < p.hidden; ++e) {
      p.out[t * p.hidden + e] = static_cast<float>(row[e] / root * p.weight[e]);
    }
  }
  return KernelStatus::kOk;
}

}  // namespace longhaul::kernels
