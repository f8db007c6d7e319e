#include <algorithm>

#include "kernels/cuda/device.cuh"
#include "kernels/logprobs/logits_chunk.cuh"
#include "kernels/logprobs/logprobs_cuda.h"

namespace longhaul::kernels {
namespace {

// A turn's rows.
struct Workspace {
  LogitsChunk* chunks;  // [rows, num_chunks]
  uint64_t* top;        // [rows, num_chunks, kMaxTopLogprobs]
};

__device__ bool Valid(const LogprobsCudaRow& row, int vocab_size) {
  return row.logits != nullptr && row.token >= 0 && row.token < vocab_size && row.num_top >= 0 &&
         row.num_top <= kMaxTopLogprobs;
}

// Grid (chunks, rows). Reads the logits once: 4 V bytes a row.
__global__ __launch_bounds__(kChunkThreads) void LogprobsChunkKernel(const LogprobsCudaRow* rows,
                                                                     int vocab_size,
                                                                     Workspace work) {
  __shared__ uint64_t scratch[32];
  const LogprobsCudaRow row = rows[blockIdx.y];
  const int64_t slot = int64_t{blockIdx.y} * gridDim.x + blockIdx.x;
  LogitsChunk chunk = {0, -INFINITY, kRowInvalid};
  if (Valid(row, vocab_size)) {
    const int begin = static_cast<int>(blockIdx.x) * kChunkTokens;
    float values[kThreadTokens];
    LoadChunk(row.logits, begin, vocab_size, values);
    chunk = ReadLogitsChunk(values, begin, vocab_size, row.num_top,
                            work.top + slot * kMaxTopLogprobs, scratch);
  }
  if (threadIdx.x == 0) work.chunks[slot] = chunk;
}

// Grid (rows).
__global__ __launch_bounds__(kChunkThreads) void LogprobsRowKernel(const LogprobsCudaRow* rows,
                                                                   int vocab_size, int num_chunks,
                                                                   Workspace work,
                                                                   LogprobsCudaResult* results) {
  __shared__ uint64_t scratch[32];
  const LogprobsCudaRow row = rows[blockIdx.x];
  LogprobsCudaResult& result = results[blockIdx.x];
  const int64_t slot = int64_t{blockIdx.x} * num_chunks;
  const LogitsRow logits(work.chunks + slot, num_chunks, scratch);
  if (logits.status() == KernelStatus::kOk) {
    if (threadIdx.x == 0) result.status = KernelStatus::kOk;
    logits.Write(row.logits[row.token], row.num_top, vocab_size, work.top + slot * kMaxTopLogprobs,
                 &result.logprobs, scratch);
  } else if (threadIdx.x == 0) {
    result.status = logits.status();
    result.logprobs = Logprobs{};
  }
}

}  // namespace

size_t LogprobsCudaWorkspaceBytes(int32_t vocab_size, int32_t num_rows) {
  const size_t slots = static_cast<size_t>(std::min(num_rows, kRowsAtOnce)) * NumChunks(vocab_size);
  return slots * (sizeof(LogitsChunk) + kMaxTopLogprobs * sizeof(uint64_t));
}

KernelStatus LogprobsCuda(const LogprobsCudaParams& p, DeviceStream stream) {
  if (p.num_rows < 0 || p.vocab_size < 1 || p.vocab_size > kMaxCudaVocab) {
    return KernelStatus::kInvalidArgument;
  }
  if (p.num_rows == 0) return KernelStatus::kOk;
  if (p.rows == nullptr || p.workspace == nullptr || p.results == nullptr) {
    return KernelStatus::kInvalidArgument;
  }
  const int chunks = NumChunks(p.vocab_size);
  const int turn = std::min(p.num_rows, kRowsAtOnce);
  Workspace work;
  work.chunks = static_cast<LogitsChunk*>(p.workspace);
  work.top = reinterpret_cast<uint64_t*>(work.chunks + int64_t{turn} * chunks);
  for (int begin = 0; begin < p.num_rows; begin += turn) {
    const int rows = std::min(turn, p.num_rows - begin);
    LogprobsChunkKernel<<<dim3(chunks, rows), kChunkThreads, 0, StreamOf(stream)>>>(
        p.rows + begin, p.vocab_size, work);
    LogprobsRowKernel<<<rows, kChunkThreads, 0, StreamOf(stream)>>>(
        p.rows + begin, p.vocab_size, chunks, work, p.results + begin);
  }
  return LaunchStatus();
}

}  // namespace longhaul::kernels
