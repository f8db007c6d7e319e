#include "kernels/cuda/bfloat16_vector.cuh"
#include "kernels/cuda/chained_launch.cuh"
#include "kernels/fused/silu.cuh"
#include "kernels/fused/silu_mul.h"

namespace longhaul::kernels {
namespace {

constexpr int32_t kThreads = 256;
constexpr int32_t kVectors = 2;  // a thread
constexpr int32_t kBlockVectors = kThreads * kVectors;
constexpr int64_t kMaxBlocks = 0x7fffffff;

// Grid: blocks of 512 consecutive vectors of one row, row by row; block: 256 threads, two vectors
// each. Roofline: bound by memory. 6 bytes an element: gate and up read, out written; about 15
// instructions an element, of the 37 that an H200 has time for.
__global__ void __launch_bounds__(kThreads)
    SiluMulKernel(const SiluMulParams<BFloat16> p, int32_t vectors, int32_t row_blocks) {
  LetNextKernelStart();
  AwaitEarlierKernels();
  const int64_t row = blockIdx.x / row_blocks;
  const int32_t begin = static_cast<int32_t>(blockIdx.x % row_blocks) * kBlockVectors + threadIdx.x;
  const uint4* gate = reinterpret_cast<const uint4*>(p.gate + row * p.gate_stride);
  const uint4* up = reinterpret_cast<const uint4*>(p.up + row * p.up_stride);
  uint4* out = reinterpret_cast<uint4*>(p.out + row * p.cols);
  uint4 packed_gate[kVectors] = {};
  uint4 packed_up[kVectors] = {};
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int32_t i = begin + v * kThreads;
    if (i >= vectors) continue;
    packed_gate[v] = gate[i];
    packed_up[v] = up[i];
  }
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int32_t i = begin + v * kThreads;
    if (i >= vectors) continue;
    float value[kVectorElements];
    float factor[kVectorElements];
    Unpack(packed_gate[v], value);
    Unpack(packed_up[v], factor);
#pragma unroll
    for (int e = 0; e < kVectorElements; ++e) value[e] = __fmul_rn(Silu(value[e]), factor[e]);
    out[i] = Pack(value);
  }
}

bool Valid(const SiluMulParams<BFloat16>& p) {
  return p.num_rows >= 0 && p.cols >= 1 && p.cols <= kMaxBlocks && p.gate_stride >= p.cols &&
         p.up_stride >= p.cols && p.cols % kVectorElements == 0 &&
         p.gate_stride % kVectorElements == 0 && p.up_stride % kVectorElements == 0 &&
         IsVectorAligned(p.gate) && IsVectorAligned(p.up) && IsVectorAligned(p.out);
}

}  // namespace

KernelStatus SiluMulCuda(const SiluMulParams<BFloat16>& p, DeviceStream stream) {
  if (!Valid(p)) return KernelStatus::kInvalidArgument;
  if (p.num_rows == 0) return KernelStatus::kOk;
  const int32_t vectors = static_cast<int32_t>(p.cols / kVectorElements);
  const int32_t row_blocks = (vectors + kBlockVectors - 1) / kBlockVectors;
  if (p.gate == nullptr || p.up == nullptr || p.out == nullptr ||
      p.num_rows > kMaxBlocks / row_blocks) {
    return KernelStatus::kInvalidArgument;
  }
  return LaunchChained(&SiluMulKernel, static_cast<uint32_t>(p.num_rows * row_blocks), kThreads, 0,
                       stream, p, vectors, row_blocks);
}

}  // namespace longhaul::kernels
