#include <algorithm>
#include <cmath>
#include <numbers>

#include "kernels/random/normal.h"

namespace longhaul::kernels {
namespace {

constexpr int64_t kTaskElements = int64_t{1} << 16;

// cos and sin of 2 pi `angle`. Quarters of a turn are taken off exactly, so that what is rounded is
// an angle below pi / 2.
void CosSinOfTurn(float angle, float* cos, float* sin) {
  const int quarter = static_cast<int>(4 * angle);
  const float rest = 4 * angle - static_cast<float>(quarter);
  const float radians = rest * (std::numbers::pi_v<float> / 2);
  const float c = std::cos(radians);
  const float s = std::sin(radians);
  *cos = quarter == 0 ? c : quarter == 1 ? -s : quarter == 2 ? -c : s;
  *sin = quarter == 0 ? s : quarter == 1 ? c : quarter == 2 ? -s : -c;
}

void FillRow(const NormalParams<float>& p, int64_t r) {
  const int64_t end = p.col_begin + p.num_cols;
  for (int64_t group = p.col_begin / kNormalGroup; group * kNormalGroup < end; ++group) {
    const NormalUniforms uniforms = NormalUniformsAt(p.seed, p.stream, p.row_begin + r, group);
    float normal[kNormalGroup];
    for (int64_t pair = 0; pair < 2; ++pair) {
      const float radius = p.sigma * std::sqrt(-2 * std::log(uniforms.radius[pair]));
      float cos = 0;
      float sin = 0;
      CosSinOfTurn(uniforms.angle[pair], &cos, &sin);
      normal[2 * pair] = radius * cos;
      normal[2 * pair + 1] = radius * sin;
    }
    const int64_t first = std::max(group * kNormalGroup, p.col_begin);
    const int64_t last = std::min((group + 1) * kNormalGroup, end);
    std::copy(normal + first - group * kNormalGroup, normal + last - group * kNormalGroup,
              p.out + r * p.num_cols + first - p.col_begin);
  }
}

}  // namespace

KernelStatus NormalCpu(const NormalParams<float>& p, Parallel& parallel) {
  if (!IsNormalValid(p)) return KernelStatus::kInvalidArgument;
  if (p.num_cols == 0) return KernelStatus::kOk;
  const int64_t task_rows = std::max<int64_t>(1, kTaskElements / p.num_cols);
  parallel.Run((p.num_rows + task_rows - 1) / task_rows, [&p, task_rows](int64_t task) {
    const int64_t end = std::min((task + 1) * task_rows, p.num_rows);
    for (int64_t r = task * task_rows; r < end; ++r) FillRow(p, r);
  });
  return KernelStatus::kOk;
}

}  // namespace longhaul::kernels
