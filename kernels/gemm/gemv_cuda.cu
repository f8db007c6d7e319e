#include "kernels/cuda/bfloat16_vector.cuh"
#include "kernels/cuda/device.cuh"
#include "kernels/gemm/gemv_cuda.h"

namespace longhaul::kernels {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
constexpr int kOutputs = 4;   // of a block, for each row of x
constexpr int kUnrolled = 4;  // loads that are under way at once, for each output
static_assert(8 % kOutputs == 0, "N is a multiple of 8, so that blocks are full");

__device__ void MultiplyAdd(const uint4& a, const uint4& b, float& sum) {
  float of_a[kVectorElements];
  float of_b[kVectorElements];
  Unpack(a, of_a);
  Unpack(b, of_b);
#pragma unroll
  for (int i = 0; i < kVectorElements; ++i) sum = fmaf(of_a[i], of_b[i], sum);
}

// Grid (N / kOutputs), 128 threads: a block reads its outputs' rows of the weight once, 2 K bytes
// each, and all of x, which stays in caches. Bound by memory: 2 N K bytes.
template <int kRows>
__global__ __launch_bounds__(kThreads) void GemvKernel(GemmCudaParams p) {
  __shared__ float of_warps[kWarps][kRows][kOutputs];
  const int64_t output = int64_t{blockIdx.x} * kOutputs;
  const int thread = static_cast<int>(threadIdx.x);
  const uint4 zeros = {0, 0, 0, 0};
  float sums[kRows][kOutputs] = {};
  for (int64_t begin = thread * kVectorElements; begin < p.k;
       begin += kUnrolled * kThreads * kVectorElements) {
    uint4 weight[kUnrolled][kOutputs];
    uint4 x[kUnrolled][kRows];
#pragma unroll
    for (int u = 0; u < kUnrolled; ++u) {
      const int64_t k = begin + u * kThreads * kVectorElements;
      const bool inside = k < p.k;
#pragma unroll
      for (int o = 0; o < kOutputs; ++o) {
        const BFloat16* const from = p.weight + (output + o) * p.k + k;
        weight[u][o] = inside ? __ldcs(reinterpret_cast<const uint4*>(from)) : zeros;
      }
#pragma unroll
      for (int row = 0; row < kRows; ++row) {
        const BFloat16* const from = p.x + row * p.k + k;
        x[u][row] = inside ? *reinterpret_cast<const uint4*>(from) : zeros;
      }
    }
#pragma unroll
    for (int u = 0; u < kUnrolled; ++u) {
#pragma unroll
      for (int row = 0; row < kRows; ++row) {
#pragma unroll
        for (int o = 0; o < kOutputs; ++o) MultiplyAdd(weight[u][o], x[u][row], sums[row][o]);
      }
    }
  }
#pragma unroll
  for (int row = 0; row < kRows; ++row) {
#pragma unroll
    for (int o = 0; o < kOutputs; ++o) {
#pragma unroll
      for (int offset = 16; offset > 0; offset /= 2) {
        sums[row][o] += __shfl_xor_sync(0xffffffff, sums[row][o], offset);
      }
      if (thread % 32 == 0) of_warps[thread / 32][row][o] = sums[row][o];
    }
  }
  __syncthreads();  // every warp's sums are written
  if (thread >= kRows * kOutputs) return;
  const int row = thread / kOutputs;
  const int o = thread % kOutputs;
  float sum = of_warps[0][row][o];
  for (int warp = 1; warp < kWarps; ++warp) sum += of_warps[warp][row][o];
  if (p.bias != nullptr) sum += BFloat16ToFloat(p.bias[output + o].bits);
  const int64_t at = row * p.n + output + o;
  if (p.y != nullptr) {
    if (p.adds) sum += BFloat16ToFloat(p.y[at].bits);
    p.y[at].bits = FloatToBFloat16(sum);
  } else {
    p.y_fp32[at] = p.adds ? p.y_fp32[at] + sum : sum;
  }
}

}  // namespace

KernelStatus GemvCuda(const GemmCudaParams& p, DeviceStream stream) {
  if (p.m < 0 || p.m > kMaxGemvRows || p.n < 1 || p.k < 1 || p.n % 8 != 0 || p.k % 8 != 0 ||
      p.n / kOutputs > INT32_MAX || (p.y == nullptr) == (p.y_fp32 == nullptr) ||
      !IsVectorAligned(p.x) || !IsVectorAligned(p.weight) || !IsVectorAligned(p.bias) ||
      !IsVectorAligned(p.y) || !IsVectorAligned(p.y_fp32)) {
    return KernelStatus::kInvalidArgument;
  }
  if (p.m == 0) return KernelStatus::kOk;
  if (p.x == nullptr || p.weight == nullptr) return KernelStatus::kInvalidArgument;
  const auto blocks = static_cast<unsigned>(p.n / kOutputs);
  const cudaStream_t on = StreamOf(stream);
  if (p.m == 1) {
    GemvKernel<1><<<blocks, kThreads, 0, on>>>(p);
  } else {
    GemvKernel<2><<<blocks, kThreads, 0, on>>>(p);
  }
  return LaunchStatus();
}

}  // namespace longhaul::kernels
