#include <cmath>
#include <numbers>

#include "kernels/random/normal.h"

namespace longhaul::kernels {

KernelStatus NormalRef(const NormalParams<float>& p) {
  if (!IsNormalValid(p)) return KernelStatus::kInvalidArgument;
  for (int64_t r = 0; r < p.num_rows; ++r) {
    for (int64_t c = 0; c < p.num_cols; ++c) {
      const int64_t column = p.col_begin + c;
      const NormalUniforms uniforms =
          NormalUniformsAt(p.seed, p.stream, p.row_begin + r, column / kNormalGroup);
      const int64_t pair = column % kNormalGroup / 2;
      const double radius = std::sqrt(-2 * std::log(double{uniforms.radius[pair]}));
      const double angle = 2 * std::numbers::pi * uniforms.angle[pair];
      const double normal = radius * (column % 2 == 0 ? std::cos(angle) : std::sin(angle));
      p.out[r * p.num_cols + c] = static_cast<float>(double{p.sigma} * normal);
    }
  }
  return KernelStatus::kOk;
}

}  // namespace longhaul::kernels
