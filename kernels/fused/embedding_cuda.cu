#include "kernels/cuda/bfloat16_vector.cuh"
#include "kernels/cuda/device.cuh"
#include "kernels/fused/embedding.h"
#include "kernels/fused/row_launch.cuh"

namespace longhaul::kernels {
namespace {

constexpr uint32_t kTwoNan = 0x7fc07fc0u;

// Grid: a block a row; block: RowThreads(E), two vectors a thread.
// Roofline: bound by memory. 4E bytes a row: 2E read of the table at a random row, 2E written.
__global__ void __launch_bounds__(kMaxRowThreads)
    EmbeddingKernel(const EmbeddingParams<BFloat16> p) {
  const int32_t vectors = p.hidden / kVectorElements;
  const int32_t id = p.ids[blockIdx.x];
  const bool known = id >= 0 && id < p.vocab_size;
  const uint4* from = reinterpret_cast<const uint4*>(p.table) + int64_t{known ? id : 0} * vectors;
  uint4* to = reinterpret_cast<uint4*>(p.out) + int64_t{blockIdx.x} * vectors;
  uint4 packed[kRowVectors];
#pragma unroll
  for (int v = 0; v < kRowVectors; ++v) {
    const int32_t i = threadIdx.x + v * blockDim.x;
    packed[v] = {kTwoNan, kTwoNan, kTwoNan, kTwoNan};
    if (known && i < vectors) packed[v] = __ldg(from + i);
  }
#pragma unroll
  for (int v = 0; v < kRowVectors; ++v) {
    const int32_t i = threadIdx.x + v * blockDim.x;
    if (i < vectors) to[i] = packed[v];
  }
}

}  // namespace

KernelStatus EmbeddingCuda(const EmbeddingParams<BFloat16>& p, DeviceStream stream) {
  if (!IsRowWidth(p.hidden) || p.vocab_size < 1 || p.num_rows < 0 || p.num_rows > kMaxGridBlocks ||
      !IsVectorAligned(p.table) || !IsVectorAligned(p.out)) {
    return KernelStatus::kInvalidArgument;
  }
  if (p.num_rows == 0) return KernelStatus::kOk;
  if (p.table == nullptr || p.ids == nullptr || p.out == nullptr) {
    return KernelStatus::kInvalidArgument;
  }
  EmbeddingKernel<<<static_cast<uint32_t>(p.num_rows), RowThreads(p.hidden), 0, StreamOf(stream)>>>(
      p);
  return LaunchStatus();
}

}  // namespace longhaul::kernels
