#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>

#include "kernels/logprobs/logits_chunk.cuh"
#include "kernels/sampling/sampling_cuda.h"
#include "kernels/sampling/sampling_scores_kernel.cuh"
#include "kernels/status.h"

// Min-p, the draw, and what leaves the device.

namespace longhaul::kernels {

// What a token weighs in the draw: step 8, after what steps 6 and 7 left.
class DrawWeights {
 public:
  __device__ DrawWeights(const SamplingCudaRow& row, const SamplingWork& work,
                         const ScoreRow& scores)
      : scores_(scores),
        temperature_(row.temperature),
        min_p_(row.min_p),
        threshold_(Selects(row) ? *work.threshold : 0) {}
  __device__ uint64_t Of(float score, int id) const {
    if (score == -INFINITY || KeyOf(score, id) < threshold_) return 0;
    const double weight = scores_.Weight(score, temperature_);
    return weight < double{min_p_} ? 0 : FixedPoint(weight);  // the most probable token weighs 1
  }

 private:
  const ScoreRow& scores_;
  const float temperature_;
  const float min_p_;
  const uint64_t threshold_;
};

// Grid (chunks, rows). What each chunk weighs in the draw.
__global__ __launch_bounds__(kChunkThreads) void SamplingMassKernel(const SamplingCudaRow* rows,
                                                                    SamplingWorkspace workspace) {
  __shared__ uint64_t scratch[32];
  const SamplingCudaRow row = rows[blockIdx.y];
  if (!(row.temperature > 0)) return;
  const SamplingWork work = workspace.Row(static_cast<int>(blockIdx.y));
  const ScoreRow scores(work, workspace.num_chunks, scratch);
  if (scores.best == 0) return;
  const DrawWeights weights(row, work, scores);
  const int begin = static_cast<int>(blockIdx.x) * kChunkTokens;
  float values[kThreadTokens];
  LoadChunk(work.scores, begin, workspace.num_chunks * kChunkTokens, values);
  uint64_t mass = 0;
#pragma unroll
  for (int i = 0; i < kThreadTokens; ++i) {
    mass += weights.Of(values[i], begin + i * kChunkThreads + static_cast<int>(threadIdx.x));
  }
  mass = BlockReduce(mass, Plus{}, scratch);
  if (threadIdx.x == 0) work.chunks[blockIdx.x].mass = mass;
}

// Step 9: the first id, ascending, at which the sum of weights exceeds `uniform` of their total.
// Every thread gets it.
__device__ inline int Draw(const SamplingCudaRow& row, const SamplingWork& work,
                           const ScoreRow& scores, int num_chunks, uint64_t (&scratch)[32]) {
  __shared__ int chosen_chunk;
  __shared__ uint64_t chosen_rest;
  __shared__ int chosen_id;
  const int thread = static_cast<int>(threadIdx.x);
  const uint64_t mass = thread < num_chunks ? work.chunks[thread].mass : 0;
  const BlockSums chunks = BlockScan(mass, scratch);
  // A sum of integers exceeds the product where it exceeds its integer part.
  uint64_t target = __double2ull_rd(row.uniform * static_cast<double>(chunks.total));
  if (target >= chunks.total) target = chunks.total - 1;
  if (chunks.before <= target && target < chunks.before + mass) {
    chosen_chunk = thread;
    chosen_rest = target - chunks.before;
  }
  __syncthreads();  // the one thread has written

  const DrawWeights weights(row, work, scores);
  const int first = chosen_chunk * kChunkTokens + thread * kThreadTokens;
  const auto weight_of = [&](int id) { return weights.Of(work.scores[id], id); };
  uint64_t sum = 0;
  for (int i = 0; i < kThreadTokens; ++i) sum += weight_of(first + i);
  uint64_t before = BlockScan(sum, scratch).before;
  if (before <= chosen_rest && chosen_rest < before + sum) {
    int id = first;
    while (chosen_rest >= before + weight_of(id)) before += weight_of(id++);
    chosen_id = id;
  }
  __syncthreads();  // the one thread has written
  return chosen_id;
}

// Grid (rows). Steps 5 and 9, and the token's logprobs.
__global__ __launch_bounds__(kChunkThreads) void SamplingChooseKernel(const SamplingCudaRow* rows,
                                                                      SamplingWorkspace workspace,
                                                                      SamplingCudaResult* results) {
  __shared__ uint64_t scratch[32];
  const SamplingCudaRow row = rows[blockIdx.x];
  const SamplingWork work = workspace.Row(static_cast<int>(blockIdx.x));
  SamplingCudaResult& out = results[blockIdx.x];
  const LogitsRow logits(work.logits, workspace.num_chunks, scratch);
  const ScoreRow scores(work, workspace.num_chunks, scratch);
  KernelStatus status = logits.status();
  if (status == KernelStatus::kOk && (logits.flags() & kScoreNotFinite) != 0) {
    status = KernelStatus::kNotFinite;
  } else if (status == KernelStatus::kOk && scores.best == 0) {
    status = KernelStatus::kNoCandidate;
  }
  if (status != KernelStatus::kOk) {
    if (threadIdx.x == 0) {
      out.status = status;
      out.result = SamplingResult{};
    }
    return;
  }
  const int token = row.temperature > 0 ? Draw(row, work, scores, workspace.num_chunks, scratch)
                                        : IdOfKey(scores.best);
  if (threadIdx.x == 0) {
    out.status = status;
    out.result.token = token;
    if (row.seen != nullptr) row.seen[token / 64] |= uint64_t{1} << (token % 64);
    if (row.counts != nullptr) ++row.counts[token];
  }
  logits.Write(row.logits[token], row.num_top_logprobs, workspace.vocab_size, work.top, &out.result,
               scratch);
}

}  // namespace longhaul::kernels
