#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>

#include "kernels/logprobs/logits_chunk.cuh"
#include "kernels/sampling/sampling_cuda.h"
#include "kernels/status.h"

// Sampling of rows of logits in five kernels; here the first, and what they share. Scores, weights'
// histogram and the sums for the draw are made by a block a chunk (logits_chunk.cuh), so that a
// single row of 152,064 keeps 38 SMs busy; thresholds and the choice by a block a row. A row whose
// parameters need no histogram or no draw leaves those kernels at once. Bytes: 4 V read and 4 V
// written by the first, then at most 5 times 4 V read, mostly from L2.
//
// A weight is exp((score - max) / temperature) in double, rounded to 44 bits behind the point: sums
// of weights are sums of integers, which no order of adding changes, atomics included.

namespace longhaul::kernels {

inline constexpr int kWeightBits = 44;
static_assert(kWeightBits + kIdBits < 64, "the sum of a row's weights fits 64 bits");
// exp(-kVanished) * 2^kWeightBits rounds to 0.
inline constexpr double kVanished = 32;

inline constexpr int kBins = 2048;

struct ScoreChunk {
  uint64_t best;  // the largest key of its scores
  uint64_t mass;  // sum of the weights that are left for the draw
  float min;      // smallest score above -inf; +inf if there is none
};

// Of one row in a turn.
struct SamplingWork {
  float* scores;        // [V] after penalties, biases and bans
  LogitsChunk* logits;  // [num_chunks]
  ScoreChunk* chunks;   // [num_chunks]
  uint64_t* top;        // [num_chunks, kMaxTopLogprobs]
  uint64_t* bin_mass;   // [kBins] by descending score
  uint32_t* bin_count;  // [kBins]
  uint64_t* threshold;  // [1] smallest key that top_k and top_p keep
};

// Where a turn's arrays begin.
struct SamplingWorkspace {
  unsigned char* memory;
  int vocab_size;
  int num_chunks;

  __host__ __device__ size_t RowBytes() const {
    const size_t chunk_bytes =
        sizeof(LogitsChunk) + sizeof(ScoreChunk) + kMaxTopLogprobs * sizeof(uint64_t);
    const size_t bin_bytes = sizeof(uint64_t) + sizeof(uint32_t);
    const size_t bytes = num_chunks * (kChunkTokens * sizeof(float) + chunk_bytes) +
                         kBins * bin_bytes + sizeof(uint64_t);
    return (bytes + 15) / 16 * 16;
  }
  __device__ SamplingWork Row(int row) const {
    SamplingWork work;
    work.scores = reinterpret_cast<float*>(memory + row * RowBytes());
    work.logits = reinterpret_cast<LogitsChunk*>(work.scores + num_chunks * kChunkTokens);
    work.chunks = reinterpret_cast<ScoreChunk*>(work.logits + num_chunks);
    work.top = reinterpret_cast<uint64_t*>(work.chunks + num_chunks);
    work.bin_mass = work.top + num_chunks * kMaxTopLogprobs;
    work.threshold = work.bin_mass + kBins;
    work.bin_count = reinterpret_cast<uint32_t*>(work.threshold + 1);
    return work;
  }
};

__device__ inline bool IsNumber(float x) { return x > -INFINITY && x < INFINITY; }

// All but the lists, whose entries ChunkScores looks at.
__device__ inline bool Valid(const SamplingCudaRow& row) {
  return row.logits != nullptr && row.temperature >= 0 && row.temperature < INFINITY &&
         row.top_k >= 0 && row.top_p > 0 && row.top_p <= 1 && row.min_p >= 0 && row.min_p <= 1 &&
         row.repetition_penalty > 0 && row.repetition_penalty < INFINITY &&
         IsNumber(row.presence_penalty) && IsNumber(row.frequency_penalty) &&
         row.num_top_logprobs >= 0 && row.num_top_logprobs <= kMaxTopLogprobs && row.uniform >= 0 &&
         row.uniform < 1 && row.num_bias >= 0 && row.num_banned >= 0 &&
         (row.num_bias == 0 || (row.bias_ids != nullptr && row.bias_values != nullptr)) &&
         (row.num_banned == 0 || row.banned_ids != nullptr);
}

__device__ inline bool Selects(const SamplingCudaRow& row) {
  return row.temperature > 0 && (row.top_k > 0 || row.top_p < 1);
}

// Steps 1 and 2 of sampling.h, in the CPU's order of roundings: nothing here is fused.
__device__ inline float Penalized(const SamplingCudaRow& row, int id, float score) {
  if (row.seen != nullptr && row.repetition_penalty != 1.0f &&
      (row.seen[id / 64] >> (id % 64) & 1) != 0) {
    score = score < 0 ? __fmul_rn(score, row.repetition_penalty)
                      : __fdiv_rn(score, row.repetition_penalty);
  }
  if (row.counts != nullptr && (row.presence_penalty != 0 || row.frequency_penalty != 0)) {
    const int count = row.counts[id];
    if (count > 0) {
      score = __fsub_rn(score, __fadd_rn(row.presence_penalty,
                                         __fmul_rn(row.frequency_penalty, __int2float_rn(count))));
    }
  }
  return score;
}

// Steps 3 and 4 on the chunk's scores in shared memory. False if an entry is outside its contract.
__device__ inline bool ApplyLists(const SamplingCudaRow& row, int begin, int vocab_size,
                                  float* scores) {
  bool valid = true;
  for (int i = static_cast<int>(threadIdx.x); i < row.num_bias; i += kChunkThreads) {
    const int id = row.bias_ids[i];
    valid = valid && id >= 0 && id < vocab_size && IsNumber(row.bias_values[i]);
    if (id < begin || id >= begin + kChunkTokens) continue;
    // Biases of one id are added in the list's order, by the thread that has the first of them.
    bool first = true;
    for (int j = 0; j < i; ++j) first = first && row.bias_ids[j] != id;
    if (!first) continue;
    for (int j = i; j < row.num_bias; ++j) {
      if (row.bias_ids[j] == id) {
        scores[id - begin] = __fadd_rn(scores[id - begin], row.bias_values[j]);
      }
    }
  }
  __syncthreads();  // bans come after every bias
  for (int i = static_cast<int>(threadIdx.x); i < row.num_banned; i += kChunkThreads) {
    const int id = row.banned_ids[i];
    valid = valid && id >= 0 && id < vocab_size;
    if (id >= begin && id < begin + kChunkTokens) scores[id - begin] = -INFINITY;
  }
  return valid;
}

// Grid (chunks, rows). Steps 1 to 4, what logprobs need of the logits, and an empty histogram.
__global__ __launch_bounds__(kChunkThreads) void SamplingScoresKernel(const SamplingCudaRow* rows,
                                                                      SamplingWorkspace workspace) {
  __shared__ uint64_t scratch[32];
  __shared__ float scores[kChunkTokens];
  const SamplingCudaRow& row = rows[blockIdx.y];
  const SamplingWork work = workspace.Row(static_cast<int>(blockIdx.y));
  const int begin = static_cast<int>(blockIdx.x) * kChunkTokens;
  const int thread = static_cast<int>(threadIdx.x);

  for (int bin = static_cast<int>(blockIdx.x) * kChunkThreads + thread; bin < kBins;
       bin += workspace.num_chunks * kChunkThreads) {
    work.bin_mass[bin] = 0;
    work.bin_count[bin] = 0;
  }
  if (!Valid(row)) {
    if (thread == 0) work.logits[blockIdx.x] = {0, -INFINITY, kRowInvalid};
    return;
  }
  float values[kThreadTokens];
  LoadChunk(row.logits, begin, workspace.vocab_size, values);
  LogitsChunk logits = ReadLogitsChunk(values, begin, workspace.vocab_size, row.num_top_logprobs,
                                       work.top + blockIdx.x * kMaxTopLogprobs, scratch);
#pragma unroll
  for (int i = 0; i < kThreadTokens; ++i) {
    const int place = i * kChunkThreads + thread;
    scores[place] =
        begin + place < workspace.vocab_size ? Penalized(row, begin + place, values[i]) : -INFINITY;
  }
  __syncthreads();  // lists change scores of other threads
  const bool valid = ApplyLists(row, begin, workspace.vocab_size, scores);
  __syncthreads();  // and so have other threads' lists

  uint32_t flags = valid ? 0 : kRowInvalid;
  ScoreChunk chunk = {0, 0, INFINITY};
  for (int i = 0; i < kThreadTokens; ++i) {
    const int place = i * kChunkThreads + thread;
    const float score = scores[place];
    work.scores[begin + place] = score;
    if (!(score < INFINITY)) flags |= kScoreNotFinite;
    if (!(score > -INFINITY)) continue;  // the end of the last chunk too
    chunk.min = fminf(chunk.min, score);
    chunk.best = Largest{}(chunk.best, KeyOf(score, begin + place));
  }
  logits.flags |= BlockReduce(flags, BitOr{}, scratch);
  chunk.best = BlockReduce(chunk.best, Largest{}, scratch);
  chunk.min = BlockReduce(chunk.min, Smallest{}, scratch);
  if (thread == 0) {
    work.logits[blockIdx.x] = logits;
    work.chunks[blockIdx.x] = chunk;
  }
}

// What the chunks' scores come to. Every thread of the block gets it.
struct ScoreRow {
  uint64_t best = 0;  // 0: no candidate, or the row is none
  double max = 0;
  double min = 0;

  __device__ ScoreRow(const SamplingWork& work, int num_chunks, uint64_t (&scratch)[32]) {
    const int i = static_cast<int>(threadIdx.x);
    const bool mine = i < num_chunks;
    const uint32_t flags = BlockReduce(mine ? work.logits[i].flags : 0u, BitOr{}, scratch);
    if (flags != 0) return;
    best = BlockReduce(mine ? work.chunks[i].best : uint64_t{0}, Largest{}, scratch);
    min = BlockReduce(mine ? work.chunks[i].min : INFINITY, Smallest{}, scratch);
    max = ValueOfKey(best);
  }

  __device__ double Weight(float score, float temperature) const {
    return exp((double{score} - max) / temperature);
  }
};

// 0 for -inf.
__device__ inline uint64_t FixedPoint(double weight) {
  return __double2ull_rn(weight * (uint64_t{1} << kWeightBits));
}

}  // namespace longhaul::kernels
