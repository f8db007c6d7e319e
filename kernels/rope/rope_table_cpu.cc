#include <algorithm>
#include <cmath>

#include "kernels/rope/rope_table.h"

namespace longhaul::kernels {
namespace {

constexpr int32_t kMaxHeadDim = 1024;
constexpr int64_t kTaskRows = 32;

bool Valid(const RopeTableParams& p) {
  if (p.num_rows < 0 || p.head_dim < 2 || p.head_dim > kMaxHeadDim || p.head_dim % 2 != 0) {
    return false;
  }
  if (!(p.theta > 0) || p.chunk_len < 0) return false;
  if (p.chunk_len == 0) return p.variant == RopeVariant::kIntra;
  return p.chunk_size >= p.chunk_len;
}

}  // namespace

KernelStatus RopeTableCpu(const RopeTableParams& p, Parallel& parallel) {
  if (!Valid(p)) return KernelStatus::kInvalidArgument;
  float inv_freq[kMaxHeadDim / 2];
  RopeInverseFrequencies(p.theta, p.head_dim, inv_freq);
  const int32_t half = p.head_dim / 2;
  parallel.Run((p.num_rows + kTaskRows - 1) / kTaskRows, [&](int64_t task) {
    const int64_t end = std::min((task + 1) * kTaskRows, p.num_rows);
    for (int64_t t = task * kTaskRows; t < end; ++t) {
      const float position =
          static_cast<float>(RopePosition(p.variant, p.positions[t], p.chunk_len, p.chunk_size));
      for (int32_t i = 0; i < half; ++i) {
        // The angle is rounded to fp32 (so defined by the model's code); its cosine is not allowed
        // further error: single-precision sincos is wrong at angles of 1e5 radians.
        const double angle = position * inv_freq[i];
        p.cos[t * half + i] = static_cast<float>(std::cos(angle));
        p.sin[t * half + i] = static_cast<float>(std::sin(angle));
      }
    }
  });
  return KernelStatus::kOk;
}

}  // namespace longhaul::kernels
