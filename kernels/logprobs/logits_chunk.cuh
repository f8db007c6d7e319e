#pragma once

#include <cuda_runtime.h>

#include <cfloat>
#include <cmath>
#include <cstdint>

#include "kernels/logprobs/logprobs.h"
#include "kernels/logprobs/logprobs_cuda.h"
#include "kernels/status.h"

// A row of logits is cut in chunks of 4,096, a block of 256 threads each: one row alone then keeps
// many SMs busy. Sums run within a chunk and then over chunks in an order that V alone sets.

namespace longhaul::kernels {

inline constexpr int kChunkTokens = 4096;
inline constexpr int kChunkThreads = 256;
inline constexpr int kThreadTokens = kChunkTokens / kChunkThreads;
inline constexpr int kMaxChunks = kMaxCudaVocab / kChunkTokens;
inline constexpr int kIdBits = 19;
static_assert(kMaxCudaVocab == 1 << kIdBits, "an id fits the low bits of a key");
static_assert(kMaxChunks <= kChunkThreads, "a thread for each chunk of a row");
// Batches are cut in turns of so many rows, which bounds workspaces.
inline constexpr int kRowsAtOnce = 64;

inline int NumChunks(int vocab_size) { return (vocab_size + kChunkTokens - 1) / kChunkTokens; }

// What a block found in the raw logits of its chunk.
struct LogitsChunk {
  double sum;  // of exp(logit - max)
  float max;   // -inf if all are
  uint32_t flags;
};
inline constexpr uint32_t kLogitNotFinite = 1;  // NaN or +inf
inline constexpr uint32_t kScoreNotFinite = 2;  // the same after penalties
inline constexpr uint32_t kRowInvalid = 4;      // a parameter outside its range

// Orders (value, id): larger values first, of equals lower ids. Never 0, which means none. `value`
// is not NaN.
__device__ inline uint64_t KeyOf(float value, int id) {
  const uint32_t bits = __float_as_uint(value == 0 ? 0.0f : value);  // -0 and 0 are equals
  const uint32_t ordered = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
  return uint64_t{ordered} << kIdBits | static_cast<uint32_t>(kMaxCudaVocab - 1 - id);
}
__device__ inline int IdOfKey(uint64_t key) {
  return kMaxCudaVocab - 1 - static_cast<int>(key & (kMaxCudaVocab - 1));
}
__device__ inline float ValueOfKey(uint64_t key) {
  const uint32_t ordered = static_cast<uint32_t>(key >> kIdBits);
  return __uint_as_float((ordered & 0x80000000u) != 0 ? ordered & 0x7fffffffu : ~ordered);
}

struct Largest {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a < b ? b : a;
  }
};
struct Smallest {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return b < a ? b : a;
  }
};
struct Plus {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct BitOr {
  __device__ uint32_t operator()(uint32_t a, uint32_t b) const { return a | b; }
};

// Over all threads of the block, in a fixed order; every thread gets the result.
template <typename T, typename Op>
__device__ T BlockReduce(T value, Op op, uint64_t (&scratch)[32]) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    value = op(value, __shfl_xor_sync(0xffffffff, value, offset));
  }
  T* const of_warps = reinterpret_cast<T*>(scratch);
  __syncthreads();  // the reduction before has been read
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = value;
  __syncthreads();  // every warp's part is written
  T result = of_warps[0];
  for (unsigned warp = 1; warp < blockDim.x / 32; ++warp) result = op(result, of_warps[warp]);
  return result;
}

// Sum over the threads before this one, and of the whole block.
struct BlockSums {
  uint64_t before;
  uint64_t total;
};
__device__ inline BlockSums BlockScan(uint64_t value, uint64_t (&scratch)[32]) {
  const unsigned lane = threadIdx.x % 32;
  uint64_t inclusive = value;
#pragma unroll
  for (unsigned offset = 1; offset < 32; offset *= 2) {
    const uint64_t other = __shfl_up_sync(0xffffffff, inclusive, offset);
    if (lane >= offset) inclusive += other;
  }
  __syncthreads();  // what was in scratch before has been read
  if (lane == 31) scratch[threadIdx.x / 32] = inclusive;
  __syncthreads();  // every warp's sum is written
  BlockSums sums = {inclusive - value, 0};
  for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) {
    if (warp < threadIdx.x / 32) sums.before += scratch[warp];
    sums.total += scratch[warp];
  }
  return sums;
}

// The `count` largest of the block's keys, largest first; `key_at(i)` is this thread's i-th, for i
// in [0, kSlots), or 0. Thread 0 gives them to emit(place, key); 0 where there are no more.
template <int kSlots, typename KeyAt, typename Emit>
__device__ void BlockTop(int count, KeyAt key_at, Emit emit, uint64_t (&scratch)[32]) {
  uint64_t limit = ~uint64_t{0};
  uint64_t best = 0;
  bool stale = true;
  for (int place = 0; place < count; ++place) {
    if (stale) {  // the largest below what was taken from this thread
      best = 0;
#pragma unroll
      for (int i = 0; i < kSlots; ++i) {
        const uint64_t key = key_at(i);
        if (key < limit && key > best) best = key;
      }
    }
    const uint64_t winner = BlockReduce(best, Largest{}, scratch);
    if (threadIdx.x == 0) emit(place, winner);
    stale = winner != 0 && best == winner;
    if (stale) limit = winner;
  }
}

// The chunk's logits into registers; element i of a thread is id begin + i * 256 + threadIdx.x.
// What is past the end is -inf.
__device__ inline void LoadChunk(const float* logits, int begin, int vocab_size,
                                 float (&values)[kThreadTokens]) {
#pragma unroll
  for (int i = 0; i < kThreadTokens; ++i) {
    const int id = begin + i * kChunkThreads + static_cast<int>(threadIdx.x);
    values[i] = id < vocab_size ? logits[id] : -INFINITY;
  }
}

// Every thread gets it. Also writes the chunk's num_top largest as keys, 0 for none.
__device__ inline LogitsChunk ReadLogitsChunk(const float (&values)[kThreadTokens], int begin,
                                              int vocab_size, int num_top, uint64_t* top,
                                              uint64_t (&scratch)[32]) {
  bool bad = false;
  float max = -INFINITY;
#pragma unroll
  for (int i = 0; i < kThreadTokens; ++i) {
    bad = bad || !(values[i] < INFINITY);  // NaN compares false
    max = fmaxf(max, values[i]);
  }
  LogitsChunk chunk;
  chunk.flags = BlockReduce(bad ? kLogitNotFinite : 0u, BitOr{}, scratch);
  chunk.max = BlockReduce(max, Largest{}, scratch);
  double sum = 0;
  if (chunk.flags == 0 && chunk.max > -INFINITY) {
#pragma unroll
    for (int i = 0; i < kThreadTokens; ++i) sum += exp(double{values[i]} - chunk.max);
  }
  chunk.sum = BlockReduce(sum, Plus{}, scratch);
  if (chunk.flags == 0) {
    const auto key_at = [&](int i) {
      const int id = begin + i * kChunkThreads + static_cast<int>(threadIdx.x);
      return id < vocab_size ? KeyOf(values[i], id) : uint64_t{0};
    };
    BlockTop<kThreadTokens>(
        num_top, key_at, [&](int place, uint64_t key) { top[place] = key; }, scratch);
  }
  return chunk;
}

// Log-softmax of a row from what its chunks hold. A block of 256 threads; every thread gets it.
class LogitsRow {
 public:
  __device__ LogitsRow(const LogitsChunk* chunks, int num_chunks, uint64_t (&scratch)[32])
      : num_chunks_(num_chunks) {
    const int i = static_cast<int>(threadIdx.x);
    const bool mine = i < num_chunks;
    flags_ = BlockReduce(mine ? chunks[i].flags : 0u, BitOr{}, scratch);
    max_ = BlockReduce(mine ? chunks[i].max : -INFINITY, Largest{}, scratch);
    const bool counts = flags_ == 0 && mine && chunks[i].max > -INFINITY;
    sum_ = BlockReduce(counts ? chunks[i].sum * exp(double{chunks[i].max} - max_) : 0.0, Plus{},
                       scratch);
  }

  __device__ uint32_t flags() const { return flags_; }
  // What the logits alone say.
  __device__ KernelStatus status() const {
    if ((flags_ & kRowInvalid) != 0) return KernelStatus::kInvalidArgument;
    const bool finite = (flags_ & kLogitNotFinite) == 0 && max_ > -INFINITY;
    return finite ? KernelStatus::kOk : KernelStatus::kNotFinite;
  }

  // Writes everything of `out`. `top`: [num_chunks, kMaxTopLogprobs], of which num_top are written.
  __device__ void Write(float logit, int num_top, int vocab_size, const uint64_t* top,
                        Logprobs* out, uint64_t (&scratch)[32]) const {
    const double log_sum = log(sum_);
    const auto logprob = [&](float value) {
      return static_cast<float>(double{value} - max_ - log_sum);
    };
    const int count = num_top < vocab_size ? num_top : vocab_size;
    if (threadIdx.x == 0) {
      out->logprob = logprob(logit);
      out->num_top = count;
      for (int i = count; i < kMaxTopLogprobs; ++i) {
        out->top_ids[i] = 0;
        out->top_logprobs[i] = 0;
      }
    }
    const auto key_at = [&](int i) {
      const int slot = i * kChunkThreads + static_cast<int>(threadIdx.x);
      return slot < num_chunks_ * num_top ? top[slot / num_top * kMaxTopLogprobs + slot % num_top]
                                          : uint64_t{0};
    };
    const auto emit = [&](int place, uint64_t key) {
      out->top_ids[place] = IdOfKey(key);
      out->top_logprobs[place] = logprob(ValueOfKey(key));
    };
    constexpr int kSlots = kMaxChunks * kMaxTopLogprobs / kChunkThreads;
    static_assert(kSlots * kChunkThreads == kMaxChunks * kMaxTopLogprobs);
    BlockTop<kSlots>(count, key_at, emit, scratch);
  }

 private:
  const int num_chunks_;
  uint32_t flags_;
  float max_;
  double sum_;
};

}  // namespace longhaul::kernels
