#include "kernels/cuda/bfloat16_vector.cuh"
#include "kernels/cuda/device.cuh"
#include "kernels/fused/add.h"

namespace longhaul::kernels {
namespace {

constexpr int32_t kThreads = 256;
constexpr int32_t kVectors = 2;  // a thread
constexpr int64_t kBlockVectors = kThreads * kVectors;
constexpr int64_t kMaxBlocks = 0x7fffffff;

// Grid: blocks of 512 consecutive vectors; block: 256 threads, two vectors each.
// Roofline: bound by memory. 6 bytes an element: x and y read, x written.
__global__ void __launch_bounds__(kThreads) AddKernel(const AddParams<BFloat16> p) {
  uint4* x = reinterpret_cast<uint4*>(p.x);
  const uint4* y = reinterpret_cast<const uint4*>(p.y);
  const int64_t vectors = p.size / kVectorElements;
  const int64_t begin = blockIdx.x * kBlockVectors + threadIdx.x;
  uint4 packed_x[kVectors] = {};
  uint4 packed_y[kVectors] = {};
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int64_t i = begin + v * kThreads;
    if (i >= vectors) continue;
    packed_x[v] = x[i];
    packed_y[v] = y[i];
  }
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    float sum[kVectorElements];
    float added[kVectorElements];
    Unpack(packed_x[v], sum);
    Unpack(packed_y[v], added);
#pragma unroll
    for (int e = 0; e < kVectorElements; ++e) sum[e] = __fadd_rn(sum[e], added[e]);
    const int64_t i = begin + v * kThreads;
    if (i < vectors) x[i] = Pack(sum);
  }
}

}  // namespace

KernelStatus AddCuda(const AddParams<BFloat16>& p, DeviceStream stream) {
  if (p.size < 0 || p.size % kVectorElements != 0 || !IsVectorAligned(p.x) ||
      !IsVectorAligned(p.y)) {
    return KernelStatus::kInvalidArgument;
  }
  if (p.size == 0) return KernelStatus::kOk;
  const int64_t blocks = (p.size / kVectorElements + kBlockVectors - 1) / kBlockVectors;
  if (p.x == nullptr || p.y == nullptr || blocks > kMaxBlocks) {
    return KernelStatus::kInvalidArgument;
  }
  AddKernel<<<static_cast<uint32_t>(blocks), kThreads, 0, StreamOf(stream)>>>(p);
  return LaunchStatus();
}

}  // namespace longhaul::kernels
