#include <cmath>
#include <vector>

#include "kernels/rope/rope_table.h"

namespace longhaul::kernels {
namespace {

// The table of positions, written from the paper's matrices rather than from RopePosition.
int64_t Position(const RopeTableParams& p, int64_t absolute) {
  if (p.chunk_len == 0) return absolute;
  int64_t r = absolute;
  while (r >= p.chunk_len) r -= p.chunk_len;
  if (p.variant == RopeVariant::kIntra) return r;
  if (p.variant == RopeVariant::kInter) r = p.chunk_len - 1;  // the last row of the clamped table
  const int64_t unclamped = r + p.chunk_len;
  return unclamped > p.chunk_size ? p.chunk_size : unclamped;
}

}  // namespace

KernelStatus RopeTableRef(const RopeTableParams& p) {
  if (p.num_rows < 0 || p.head_dim < 2) return KernelStatus::kInvalidArgument;
  const int64_t half = p.head_dim / 2;
  std::vector<float> inv_freq(half);
  RopeInverseFrequencies(p.theta, p.head_dim, inv_freq.data());
  for (int64_t t = 0; t < p.num_rows; ++t) {
    const float position = static_cast<float>(Position(p, p.positions[t]));
    for (int64_t i = 0; i < half; ++i) {
      const float angle = position * inv_freq[i];
      p.cos[t * half + i] = static_cast<float>(std::cos(static_cast<long double>(angle)));
      p.sin[t * half + i] = static_cast<float>(std::sin(static_cast<long double>(angle)));
    }
  }
  return KernelStatus::kOk;
}

}  // namespace longhaul::kernels
