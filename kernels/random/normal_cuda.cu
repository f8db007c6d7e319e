#include "kernels/cuda/bfloat16_vector.cuh"
#include "kernels/cuda/device.cuh"
#include "kernels/random/normal.h"

namespace longhaul::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxGridBlocks = 0x7fffffff;
static_assert(kVectorElements == 2 * kNormalGroup, "a thread makes a vector in two groups");

// The elements in columns [8 vector, 8 vector + 8) of the whole matrix.
__device__ void MakeVector(const NormalParams<BFloat16>& p, int64_t row, int64_t vector,
                           float (&values)[kVectorElements]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const NormalUniforms uniforms = NormalUniformsAt(p.seed, p.stream, row, 2 * vector + half);
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
      const float radius =
          __fmul_rn(p.sigma, __fsqrt_rn(__fmul_rn(-2.0f, logf(uniforms.radius[pair]))));
      float sin = 0;
      float cos = 0;
      sincospif(2 * uniforms.angle[pair], &sin, &cos);  // twice the angle is exact
      values[kNormalGroup * half + 2 * pair] = __fmul_rn(radius, cos);
      values[kNormalGroup * half + 2 * pair + 1] = __fmul_rn(radius, sin);
    }
  }
}

// Grid: as many threads as the window's rows have vectors of the whole matrix, kThreads a block;
// a thread makes one. kWhole: every vector lies within the window, and at a 16-byte boundary.
// Roofline: bound by arithmetic. 2 bytes written an element, for some 50 instructions.
template <bool kWhole>
__global__ void __launch_bounds__(kThreads)
    NormalKernel(const NormalParams<BFloat16> p, int64_t first_vector, int64_t row_vectors) {
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t r = index / row_vectors;
  if (r >= p.num_rows) return;
  const int64_t vector = first_vector + index % row_vectors;
  float values[kVectorElements];
  MakeVector(p, p.row_begin + r, vector, values);
  const int64_t c = vector * kVectorElements - p.col_begin;  // of the first one, maybe outside
  BFloat16* out = p.out + r * p.num_cols;
  if constexpr (kWhole) {
    *reinterpret_cast<uint4*>(out + c) = Pack(values);
  } else {
#pragma unroll
    for (int i = 0; i < kVectorElements; ++i) {
      if (c + i >= 0 && c + i < p.num_cols) {
        out[c + i].bits = __bfloat16_as_ushort(__float2bfloat16_rn(values[i]));
      }
    }
  }
}

}  // namespace

KernelStatus NormalCuda(const NormalParams<BFloat16>& p, DeviceStream stream) {
  if (!IsNormalValid(p)) return KernelStatus::kInvalidArgument;
  if (p.num_rows == 0 || p.num_cols == 0) return KernelStatus::kOk;
  const int64_t first_vector = p.col_begin / kVectorElements;
  const int64_t row_vectors = (p.col_begin + p.num_cols - 1) / kVectorElements + 1 - first_vector;
  const int64_t threads = p.num_rows * row_vectors;
  const int64_t blocks = (threads + kThreads - 1) / kThreads;
  if (blocks > kMaxGridBlocks) return KernelStatus::kInvalidArgument;
  const bool whole = p.col_begin % kVectorElements == 0 && p.num_cols % kVectorElements == 0 &&
                     IsVectorAligned(p.out);
  const auto kernel = whole ? &NormalKernel<true> : &NormalKernel<false>;
  kernel<<<static_cast<uint32_t>(blocks), kThreads, 0, StreamOf(stream)>>>(p, first_vector,
                                                                           row_vectors);
  return LaunchStatus();
}

}  // namespace longhaul::kernels
