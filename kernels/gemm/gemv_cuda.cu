#include "kernels/cuda/bfloat16_vector.cuh"
#include "kernels/cuda/chained_launch.cuh"
#include "kernels/fused/silu.cuh"
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

// Row of the weight that is output `o` of the block. Gated: its gates are the first half of its
// outputs, their ups the second one.
template <bool kGated>
__device__ int64_t WeightRow(const GemmCudaParams& p, int o) {
  if constexpr (!kGated) return int64_t{blockIdx.x} * kOutputs + o;
  constexpr int kHalf = kOutputs / 2;
  return int64_t{blockIdx.x} * kHalf + o % kHalf + (o < kHalf ? 0 : p.n / 2);
}

// Grid (N / kOutputs), 128 threads: a block reads its outputs' rows of the weight once, 2 K bytes
// each, and all of x, which stays in caches. Bound by memory: 2 N K bytes. On a chained stream the
// first of them are on their way while the kernels before still work.
template <int kRows, bool kGated>
__global__ __launch_bounds__(kThreads) void GemvKernel(const GemmCudaParams p) {
  LetNextKernelStart();
  __shared__ float of_warps[kWarps][kRows][kOutputs];
  const int thread = static_cast<int>(threadIdx.x);
  const uint4 zeros = {0, 0, 0, 0};
  const BFloat16* of_output[kOutputs];
#pragma unroll
  for (int o = 0; o < kOutputs; ++o) of_output[o] = p.weight + WeightRow<kGated>(p, o) * p.k;

  uint4 weight[kUnrolled][kOutputs];
  const auto load_weight = [&](int64_t begin) {
#pragma unroll
    for (int u = 0; u < kUnrolled; ++u) {
      const int64_t k = begin + u * kThreads * kVectorElements;
#pragma unroll
      for (int o = 0; o < kOutputs; ++o) {
        weight[u][o] = k < p.k ? __ldcs(reinterpret_cast<const uint4*>(of_output[o] + k)) : zeros;
      }
    }
  };
  int64_t begin = thread * kVectorElements;
  load_weight(begin);

  // What the thread has to do at the end, and all it needs for it.
  constexpr int kParts = kGated ? 2 : 1;  // sums that make a result
  constexpr int kResults = kOutputs / kParts;
  const bool has_result = thread < kRows * kResults;
  const int row = thread / kResults;
  const int o = thread % kResults;
  const int64_t at = (int64_t{row} * gridDim.x + blockIdx.x) * kResults + o;
  float bias[kParts] = {};
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    if (!has_result || p.bias == nullptr) continue;
    bias[part] = BFloat16ToFloat(p.bias[WeightRow<kGated>(p, o + part * kResults)].bits);
  }
  AwaitEarlierKernels();
  float before = 0;
  if (has_result && p.adds) {
    before = p.y != nullptr ? BFloat16ToFloat(p.y[at].bits) : p.y_fp32[at];
  }

  float sums[kRows][kOutputs] = {};
  while (true) {
    uint4 x[kUnrolled][kRows];
#pragma unroll
    for (int u = 0; u < kUnrolled; ++u) {
      const int64_t k = begin + u * kThreads * kVectorElements;
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const BFloat16* const from = p.x + r * p.k + k;
        x[u][r] = k < p.k ? *reinterpret_cast<const uint4*>(from) : zeros;
      }
    }
#pragma unroll
    for (int u = 0; u < kUnrolled; ++u) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int i = 0; i < kOutputs; ++i) MultiplyAdd(weight[u][i], x[u][r], sums[r][i]);
      }
    }
    begin += kUnrolled * kThreads * kVectorElements;
    if (begin >= p.k) break;
    load_weight(begin);
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
#pragma unroll
    for (int i = 0; i < kOutputs; ++i) {
#pragma unroll
      for (int offset = 16; offset > 0; offset /= 2) {
        sums[r][i] += __shfl_xor_sync(0xffffffff, sums[r][i], offset);
      }
      if (thread % 32 == 0) of_warps[thread / 32][r][i] = sums[r][i];
    }
  }
  __syncthreads();  // every warp's sums are written
  if (!has_result) return;
  float parts[kParts];
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    float sum = of_warps[0][row][o + part * kResults];
    for (int warp = 1; warp < kWarps; ++warp) sum += of_warps[warp][row][o + part * kResults];
    if (p.bias != nullptr) sum += bias[part];
    parts[part] = sum;
  }
  float result = parts[0];
  if constexpr (kGated) {
    const auto rounded = [](float value) { return BFloat16ToFloat(FloatToBFloat16(value)); };
    result = __fmul_rn(Silu(rounded(parts[0])), rounded(parts[1]));
  }
  if (p.adds) result += before;
  if (p.y != nullptr) {
    p.y[at].bits = FloatToBFloat16(result);
  } else {
    p.y_fp32[at] = result;
  }
}

bool Valid(const GemmCudaParams& p) {
  return p.m >= 0 && p.m <= kMaxGemvRows && p.n >= 1 && p.k >= 1 && p.n % 8 == 0 && p.k % 8 == 0 &&
         p.n / kOutputs <= INT32_MAX && (p.y == nullptr) != (p.y_fp32 == nullptr) &&
         IsVectorAligned(p.x) && IsVectorAligned(p.weight) && IsVectorAligned(p.bias) &&
         IsVectorAligned(p.y) && IsVectorAligned(p.y_fp32);
}

template <bool kGated>
KernelStatus Launch(const GemmCudaParams& p, DeviceStream stream) {
  if (p.m == 0) return KernelStatus::kOk;
  if (p.x == nullptr || p.weight == nullptr) return KernelStatus::kInvalidArgument;
  const auto kernel = p.m == 1 ? &GemvKernel<1, kGated> : &GemvKernel<2, kGated>;
  return LaunchChained(kernel, static_cast<unsigned>(p.n / kOutputs), kThreads, 0, stream, p);
}

}  // namespace

KernelStatus GemvCuda(const GemmCudaParams& p, DeviceStream stream) {
  return Valid(p) ? Launch</*kGated=*/false>(p, stream) : KernelStatus::kInvalidArgument;
}

KernelStatus GatedGemvCuda(const GemmCudaParams& p, DeviceStream stream) {
  if (!Valid(p) || p.n % 16 != 0 || p.y == nullptr || p.adds) {
    return KernelStatus::kInvalidArgument;
  }
  return Launch</*kGated=*/true>(p, stream);
}

}  // namespace longhaul::kernels
