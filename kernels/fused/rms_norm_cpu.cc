#include <algorithm>
#include <cmath>

#include "kernels/fused/rms_norm.h"

namespace longhaul::kernels {
namespace {

constexpr int64_t kTaskRows = 16;
// Partial sums of squares: element e goes to lane e % 16, lanes are then folded in halves. The
// order is fixed by E alone, and the lanes map onto vector registers of any width.
constexpr int32_t kLanes = 16;

float SumOfSquares(const float* __restrict x, int32_t size) {
  float lane[kLanes] = {};
  const int32_t full = size / kLanes * kLanes;
  for (int32_t e = 0; e < full; e += kLanes) {
    for (int32_t i = 0; i < kLanes; ++i) lane[i] += x[e + i] * x[e + i];
  }
  for (int32_t e = full; e < size; ++e) lane[e - full] += x[e] * x[e];
  for (int32_t width = kLanes / 2; width > 0; width /= 2) {
    for (int32_t i = 0; i < width; ++i) lane[i] += lane[i + width];
  }
  return lane[0];
}

void NormRow(const RmsNormParams<float>& p, int64_t row) {
  const int32_t hidden = p.hidden;
  const float* x = p.x + row * hidden;
  float* out = p.out + row * hidden;
  const float mean = SumOfSquares(x, hidden) / static_cast<float>(hidden);
  const float inverse = 1.0f / std::sqrt(mean + p.eps);
  for (int32_t e = 0; e < hidden; ++e) out[e] = p.weight[e] * (x[e] * inverse);
}

}  // namespace

KernelStatus RmsNormCpu(const RmsNormParams<float>& p, Parallel& parallel) {
  if (p.num_rows < 0 || p.hidden < 1 || !(p.eps > 0)) return KernelStatus::kInvalidArgument;
  parallel.Run((p.num_rows + kTaskRows - 1) / kTaskRows, [&p](int64_t task) {
    const int64_t end = std::min((task + 1) * kTaskRows, p.num_rows);
    for (int64_t row = task * kTaskRows; row < end; ++row) NormRow(p, row);
  });
  return KernelStatus::kOk;
}

}  // namespace longhaul::kernels
