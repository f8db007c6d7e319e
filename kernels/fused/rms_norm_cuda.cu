#include "kernels/cuda/bfloat16_vector.cuh"
#include "kernels/cuda/chained_launch.cuh"
#include "kernels/fused/rms_norm.h"
#include "kernels/fused/row_launch.cuh"

namespace longhaul::kernels {
namespace {

constexpr int32_t kMaxWarps = kMaxRowThreads / 32;

// Grid: a block a row; block: RowThreads(E). A thread has two vectors, in registers from the one
// read to the one write.
// Roofline: bound by memory. 4E bytes a row of x and out; the 4E of the weight come from the
// caches. About 4 flops an element.
__global__ void __launch_bounds__(kMaxRowThreads) RmsNormKernel(const RmsNormParams<BFloat16> p) {
  LetNextKernelStart();
  const int32_t vectors = p.hidden / kVectorElements;
  const int64_t row_begin = int64_t{blockIdx.x} * vectors;
  const uint4* x = reinterpret_cast<const uint4*>(p.x) + row_begin;
  uint4* out = reinterpret_cast<uint4*>(p.out) + row_begin;

  // All reads first: out may be x, so the compiler would not move them up.
  float weight[kRowVectors][kVectorElements];
#pragma unroll
  for (int v = 0; v < kRowVectors; ++v) {
    const int32_t i = threadIdx.x + v * blockDim.x;
    if (i < vectors) LoadFloats(p.weight + i * kVectorElements, weight[v]);
  }
  AwaitEarlierKernels();
  uint4 packed[kRowVectors] = {};
#pragma unroll
  for (int v = 0; v < kRowVectors; ++v) {
    const int32_t i = threadIdx.x + v * blockDim.x;
    if (i < vectors) packed[v] = x[i];
  }

  float value[kRowVectors][kVectorElements];
  float sum = 0;  // of squares; vectors behind the row's end are zero
#pragma unroll
  for (int v = 0; v < kRowVectors; ++v) {
    Unpack(packed[v], value[v]);
#pragma unroll
    for (int e = 0; e < kVectorElements; ++e) sum = __fmaf_rn(value[v][e], value[v][e], sum);
  }

  // Lanes in halves (both sides of an exchange add the same two numbers), then warps in order.
  __shared__ float warp_sum[kMaxWarps];
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    sum = __fadd_rn(sum, __shfl_xor_sync(0xffffffffu, sum, distance));
  }
  if (threadIdx.x % 32 == 0) warp_sum[threadIdx.x / 32] = sum;
  __syncthreads();  // the sums of all warps before any thread reads them
  sum = 0;
  const int32_t warps = blockDim.x / 32;
  for (int32_t warp = 0; warp < warps; ++warp) sum = __fadd_rn(sum, warp_sum[warp]);

  const float mean = __fdiv_rn(sum, static_cast<float>(p.hidden));
  const float inverse = __frsqrt_rn(__fadd_rn(mean, p.eps));
#pragma unroll
  for (int v = 0; v < kRowVectors; ++v) {
    const int32_t i = threadIdx.x + v * blockDim.x;
    if (i >= vectors) continue;
#pragma unroll
    for (int e = 0; e < kVectorElements; ++e) {
      value[v][e] = __fmul_rn(weight[v][e], __fmul_rn(value[v][e], inverse));
    }
    out[i] = Pack(value[v]);
  }
}

bool Valid(const RmsNormParams<BFloat16>& p) {
  return IsRowWidth(p.hidden) && p.eps > 0 && p.num_rows >= 0 && p.num_rows <= kMaxGridBlocks &&
         IsVectorAligned(p.x) && IsVectorAligned(p.weight) && IsVectorAligned(p.out);
}

}  // namespace

KernelStatus RmsNormCuda(const RmsNormParams<BFloat16>& p, DeviceStream stream) {
  if (!Valid(p)) return KernelStatus::kInvalidArgument;
  if (p.num_rows == 0) return KernelStatus::kOk;
  if (p.x == nullptr || p.weight == nullptr || p.out == nullptr) {
    return KernelStatus::kInvalidArgument;
  }
  return LaunchChained(&RmsNormKernel, static_cast<uint32_t>(p.num_rows), RowThreads(p.hidden), 0,
                       stream, p);
}

}  // namespace longhaul::kernels
