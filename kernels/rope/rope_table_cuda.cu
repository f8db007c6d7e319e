#include "kernels/cuda/device.cuh"
#include "kernels/rope/rope_table.h"

namespace longhaul::kernels {
namespace {

constexpr int32_t kMaxHeadDim = 1024;
constexpr int32_t kRows = 4;  // a block, one warp each
constexpr int64_t kMaxBlocks = 0x7fffffff;

// Made on the host, where the CPU twin makes them, and handed over with the launch.
struct InverseFrequencies {
  float value[kMaxHeadDim / 2];
};
static_assert(sizeof(InverseFrequencies) + sizeof(RopeTableParams) <= 4096,
              "a launch's parameters end at 4 KB");

// Grid: T / 4 blocks; block: four warps, a row each, lanes over the frequencies.
// Roofline: bound by instructions, some 200 in double for each 8 bytes written; once a unit, for
// all of its layers.
__global__ void __launch_bounds__(kRows * 32)
    RopeTableKernel(const RopeTableParams p, const __grid_constant__ InverseFrequencies inv_freq) {
  const int64_t row = int64_t{blockIdx.x} * kRows + threadIdx.x / 32;
  if (row >= p.num_rows) return;
  const float position =
      static_cast<float>(RopePosition(p.variant, p.positions[row], p.chunk_len, p.chunk_size));
  const int32_t half = p.head_dim / 2;
  for (int32_t i = threadIdx.x % 32; i < half; i += 32) {
    // The angle is rounded to fp32 (so defined by the model's code); what follows is not, as
    // single-precision sincos is wrong at angles of 1e5 radians.
    const double angle = __fmul_rn(position, inv_freq.value[i]);
    double sin = 0;
    double cos = 0;
    sincos(angle, &sin, &cos);
    p.cos[row * half + i] = static_cast<float>(cos);
    p.sin[row * half + i] = static_cast<float>(sin);
  }
}

bool Valid(const RopeTableParams& p) {
  if (p.num_rows < 0 || p.num_rows > kMaxBlocks * kRows || p.head_dim < 2 ||
      p.head_dim > kMaxHeadDim || p.head_dim % 2 != 0) {
    return false;
  }
  if (!(p.theta > 0) || p.chunk_len < 0) return false;
  if (p.chunk_len == 0) return p.variant == RopeVariant::kIntra;
  return p.chunk_size >= p.chunk_len;
}

}  // namespace

KernelStatus RopeTableCuda(const RopeTableParams& p, DeviceStream stream) {
  if (!Valid(p)) return KernelStatus::kInvalidArgument;
  if (p.num_rows == 0) return KernelStatus::kOk;
  if (p.positions == nullptr || p.cos == nullptr || p.sin == nullptr) {
    return KernelStatus::kInvalidArgument;
  }
  InverseFrequencies inv_freq = {};
  RopeInverseFrequencies(p.theta, p.head_dim, inv_freq.value);
  const int64_t blocks = (p.num_rows + kRows - 1) / kRows;
  RopeTableKernel<<<static_cast<uint32_t>(blocks), kRows * 32, 0, StreamOf(stream)>>>(p, inv_freq);
  return LaunchStatus();
}

}  // namespace longhaul::kernels
