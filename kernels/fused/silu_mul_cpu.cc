#include <algorithm>
#include <bit>

#include "kernels/fused/silu_mul.h"

namespace longhaul::kernels {
namespace {

constexpr int64_t kTaskElements = 16384;

constexpr float kExpMin = -87.0f;  // the smallest power below has to stay a normal number

// exp of x <= 0 without a branch, so that the loop around it becomes vector code of any width.
// Within 2 ulp down to kExpMin, below it 0.
inline float ExpOfNegative(float x) {
  const bool tiny = x < kExpMin;
  x = tiny ? kExpMin : x;
  constexpr float kShift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float shifted = x * 1.44269504088896341f + kShift;
  const float n = shifted - kShift;
  // ln 2 in two parts; n * the first is exact.
  const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  float poly = 1.9875691500e-4f;  // Cephes expf
  poly = poly * r + 1.3981999507e-3f;
  poly = poly * r + 8.3334519073e-3f;
  poly = poly * r + 4.1665795894e-2f;
  poly = poly * r + 1.6666665459e-1f;
  poly = poly * r + 5.0000001201e-1f;
  poly = poly * (r * r) + r + 1.0f;
  const uint32_t exponent = (std::bit_cast<uint32_t>(shifted) + 127u) << 23;
  return tiny ? 0.0f : poly * std::bit_cast<float>(exponent);
}

void SiluMulRow(const float* __restrict gate, const float* __restrict up, float* __restrict out,
                int64_t cols) {
  for (int64_t i = 0; i < cols; ++i) {
    // 1 / (1 + exp(-v)), for v < 0 with both sides times exp(v), so that nothing overflows and no
    // quotient is denormal (which takes some machines twenty times as long).
    const float exp = ExpOfNegative(gate[i] < 0 ? gate[i] : -gate[i]);
    const float sigmoid = (gate[i] < 0 ? exp : 1.0f) / (1.0f + exp);
    out[i] = gate[i] * sigmoid * up[i];
  }
}

}  // namespace

KernelStatus SiluMulCpu(const SiluMulParams<float>& p, Parallel& parallel) {
  if (p.num_rows < 0 || p.cols < 1 || p.gate_stride < p.cols || p.up_stride < p.cols) {
    return KernelStatus::kInvalidArgument;
  }
  const int64_t task_rows = std::max<int64_t>(1, kTaskElements / p.cols);
  parallel.Run((p.num_rows + task_rows - 1) / task_rows, [&p, task_rows](int64_t task) {
    const int64_t end = std::min((task + 1) * task_rows, p.num_rows);
    for (int64_t row = task * task_rows; row < end; ++row) {
      SiluMulRow(p.gate + row * p.gate_stride, p.up + row * p.up_stride, p.out + row * p.cols,
                 p.cols);
    }
  });
  return KernelStatus::kOk;
}

}  // namespace longhaul::kernels
