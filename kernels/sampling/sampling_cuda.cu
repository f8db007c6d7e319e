#include <algorithm>

#include "kernels/cuda/device.cuh"
#include "kernels/sampling/sampling_cuda.h"
#include "kernels/sampling/sampling_draw_kernel.cuh"
#include "kernels/sampling/sampling_scores_kernel.cuh"
#include "kernels/sampling/sampling_select_kernel.cuh"

namespace longhaul::kernels {
namespace {

constexpr int kSeenThreads = 256;

// Grid: a thread an id.
__global__ __launch_bounds__(kSeenThreads) void SamplingSeenKernel(SamplingSeenCudaParams p) {
  const int64_t i = int64_t{blockIdx.x} * kSeenThreads + threadIdx.x;
  if (i >= p.num_ids) return;
  const int32_t id = p.ids[i];
  if (id < 0 || id >= p.vocab_size) return;
  if (p.seen != nullptr) {
    atomicOr(reinterpret_cast<unsigned long long*>(&p.seen[id / 64]), 1ull << (id % 64));
  }
  if (p.counts != nullptr) atomicAdd(&p.counts[id], 1);
}

}  // namespace

size_t SamplingCudaWorkspaceBytes(int32_t vocab_size, int32_t num_rows) {
  const SamplingWorkspace workspace = {nullptr, vocab_size, NumChunks(vocab_size)};
  return static_cast<size_t>(std::min(num_rows, kRowsAtOnce)) * workspace.RowBytes();
}

KernelStatus SamplingCuda(const SamplingCudaParams& p, DeviceStream stream) {
  if (p.num_rows < 0 || p.vocab_size < 1 || p.vocab_size > kMaxCudaVocab) {
    return KernelStatus::kInvalidArgument;
  }
  if (p.num_rows == 0) return KernelStatus::kOk;
  if (p.rows == nullptr || p.workspace == nullptr || p.results == nullptr) {
    return KernelStatus::kInvalidArgument;
  }
  const int chunks = NumChunks(p.vocab_size);
  const SamplingWorkspace work = {static_cast<unsigned char*>(p.workspace), p.vocab_size, chunks};
  const cudaStream_t on = StreamOf(stream);
  for (int begin = 0; begin < p.num_rows; begin += kRowsAtOnce) {
    const SamplingCudaRow* rows = p.rows + begin;
    const int count = std::min(kRowsAtOnce, p.num_rows - begin);
    const dim3 grid(chunks, count);
    SamplingScoresKernel<<<grid, kChunkThreads, 0, on>>>(rows, work);
    SamplingHistogramKernel<<<grid, kChunkThreads, 0, on>>>(rows, work);
    SamplingSelectKernel<<<count, kSelectThreads, 0, on>>>(rows, work);
    SamplingMassKernel<<<grid, kChunkThreads, 0, on>>>(rows, work);
    SamplingChooseKernel<<<count, kChunkThreads, 0, on>>>(rows, work, p.results + begin);
  }
  return LaunchStatus();
}

KernelStatus SamplingSeenCuda(const SamplingSeenCudaParams& p, DeviceStream stream) {
  if (p.num_ids < 0 || p.vocab_size < 1 || p.vocab_size > kMaxCudaVocab) {
    return KernelStatus::kInvalidArgument;
  }
  if (p.num_ids == 0 || (p.seen == nullptr && p.counts == nullptr)) return KernelStatus::kOk;
  if (p.ids == nullptr) return KernelStatus::kInvalidArgument;
  const int64_t blocks = (p.num_ids + kSeenThreads - 1) / kSeenThreads;
  if (blocks > INT32_MAX) return KernelStatus::kInvalidArgument;
  SamplingSeenKernel<<<static_cast<unsigned>(blocks), kSeenThreads, 0, StreamOf(stream)>>>(p);
  return LaunchStatus();
}

}  // namespace longhaul::kernels
