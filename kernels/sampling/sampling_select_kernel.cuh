#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>

#include "kernels/logprobs/logits_chunk.cuh"
#include "kernels/sampling/sampling_cuda.h"
#include "kernels/sampling/sampling_scores_kernel.cuh"

// Top-k and top-p: a histogram of the scores, the bins in which the cuts fall, and the cuts
// themselves from those bins' candidates.

namespace longhaul::kernels {

inline constexpr int kSelectThreads = 512;
inline constexpr int kThreadBins = kBins / kSelectThreads;
// Candidates of one bin that are gathered in shared memory; a fuller bin is read from its scores
// again and again.
inline constexpr int kListCapacity = 2048;

// Cuts the scores, from the largest down, to bins of one width; what weighs nothing is in the last.
class Bins {
 public:
  __device__ Bins(const ScoreRow& scores, float temperature) : max_(scores.max) {
    const double width = fmin(scores.max - scores.min, kVanished * temperature);
    scale_ = width > 0 ? (kBins - 1) / width : 0;
  }
  __device__ int Of(float score) const {
    return static_cast<int>(fmin((max_ - score) * scale_, double{kBins - 1}));
  }

 private:
  double max_;
  double scale_;
};

// Grid (chunks, rows). How many candidates each bin has, and what they weigh together.
__global__ __launch_bounds__(kChunkThreads) void SamplingHistogramKernel(
    const SamplingCudaRow* rows, SamplingWorkspace workspace) {
  // A block's sum of weights in a bin takes 57 bits; shared memory adds 32 at a time.
  constexpr int kPartBits = 20;
  constexpr int kParts = 3;
  static_assert(kParts * kPartBits > kWeightBits);
  static_assert(kChunkTokens <= 1 << (32 - kPartBits), "a part's sum fits 32 bits");
  __shared__ uint64_t scratch[32];
  __shared__ uint32_t counts[kBins];
  __shared__ uint32_t parts[kParts][kBins];
  const SamplingCudaRow row = rows[blockIdx.y];
  if (!Selects(row)) return;
  const SamplingWork work = workspace.Row(static_cast<int>(blockIdx.y));
  const ScoreRow scores(work, workspace.num_chunks, scratch);
  if (scores.best == 0) return;
  const int thread = static_cast<int>(threadIdx.x);
  for (int bin = thread; bin < kBins; bin += kChunkThreads) {
    counts[bin] = 0;
    for (int part = 0; part < kParts; ++part) parts[part][bin] = 0;
  }
  __syncthreads();  // zeros before sums
  const Bins bins(scores, row.temperature);
  float values[kThreadTokens];
  LoadChunk(work.scores, static_cast<int>(blockIdx.x) * kChunkTokens,
            workspace.num_chunks * kChunkTokens, values);
#pragma unroll
  for (int i = 0; i < kThreadTokens; ++i) {
    const float score = values[i];
    if (score == -INFINITY) continue;
    const int bin = bins.Of(score);
    atomicAdd(&counts[bin], 1u);
    if (row.top_p >= 1) continue;
    const uint64_t weight = FixedPoint(scores.Weight(score, row.temperature));
    for (int part = 0; part < kParts; ++part) {
      const uint32_t bits =
          static_cast<uint32_t>(weight >> (part * kPartBits)) & ((1u << kPartBits) - 1);
      if (bits != 0) atomicAdd(&parts[part][bin], bits);
    }
  }
  __syncthreads();  // sums before they are read
  for (int bin = thread; bin < kBins; bin += kChunkThreads) {
    if (counts[bin] == 0) continue;
    atomicAdd(&work.bin_count[bin], counts[bin]);
    uint64_t mass = 0;
    for (int part = 0; part < kParts; ++part) {
      mass += uint64_t{parts[part][bin]} << (part * kPartBits);
    }
    if (mass == 0) continue;
    atomicAdd(reinterpret_cast<unsigned long long*>(&work.bin_mass[bin]),
              static_cast<unsigned long long>(mass));
  }
}

// The bin in which sums over bins reach `need`, and the sum before it. Every thread gets it.
struct BinPlace {
  int bin;
  uint64_t before;
};

// `value_of(bin)` for this thread's bins; 1 <= need <= their sum over the block.
template <typename ValueOf>
__device__ BinPlace FindBin(ValueOf value_of, uint64_t need, BinPlace* shared,
                            uint64_t (&scratch)[32]) {
  uint64_t sum = 0;
  for (int i = 0; i < kThreadBins; ++i) {
    sum += value_of(static_cast<int>(threadIdx.x) * kThreadBins + i);
  }
  uint64_t before = BlockScan(sum, scratch).before;
  if (before < need && need <= before + sum) {
    int bin = static_cast<int>(threadIdx.x) * kThreadBins;
    while (need > before + value_of(bin)) before += value_of(bin++);
    *shared = {bin, before};
  }
  __syncthreads();  // the one thread has written
  const BinPlace place = *shared;
  __syncthreads();  // and everyone has read
  return place;
}

// The candidates of one bin: key and weight.
class BinCandidates {
 public:
  struct List {
    uint64_t keys[kListCapacity];
    uint64_t weights[kListCapacity];
    int size;
  };

  // Not `weighed`: weights are not asked for.
  __device__ BinCandidates(const SamplingWork& work, int padded_vocab, const ScoreRow& scores,
                           const Bins& bins, float temperature, bool weighed, List* list)
      : work_(work),
        padded_vocab_(padded_vocab),
        scores_(scores),
        bins_(bins),
        temperature_(temperature),
        weighed_(weighed),
        list_(list) {}

  // From here on of `bin`.
  __device__ void Load(int bin) {
    if (bin == bin_) return;
    bin_ = bin;
    listed_ = work_.bin_count[bin] <= kListCapacity;
    if (!listed_) return;
    __syncthreads();  // the list before has been read
    if (threadIdx.x == 0) list_->size = 0;
    __syncthreads();  // empty before it is filled
    // Their order in the list varies; only sums and extremes are taken of it.
    Scan(/*floor=*/0, weighed_, [&](uint64_t key, uint64_t weight) {
      const int place = atomicAdd(&list_->size, 1);
      list_->keys[place] = key;
      list_->weights[place] = weight;
    });
    __syncthreads();  // filled before it is read
  }

  // This thread's share of those from key `floor` on; not `weighed`: each weighs 1.
  template <typename Visit>
  __device__ void ForEach(uint64_t floor, bool weighed, Visit visit) const {
    if (!listed_) {
      Scan(floor, weighed, visit);
      return;
    }
    for (int i = static_cast<int>(threadIdx.x); i < list_->size; i += kSelectThreads) {
      if (list_->keys[i] >= floor) visit(list_->keys[i], weighed ? list_->weights[i] : 1);
    }
  }

 private:
  // Reads all scores, 16 a thread at once: nothing else hides how far they are.
  template <typename Visit>
  __device__ void Scan(uint64_t floor, bool weighed, Visit visit) const {
    constexpr int kVectors = 4;
    constexpr int kBatch = kVectors * 4 * kSelectThreads;
    for (int begin = static_cast<int>(threadIdx.x) * 4; begin < padded_vocab_; begin += kBatch) {
      float4 vectors[kVectors];
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        const int id = begin + v * 4 * kSelectThreads;
        vectors[v] = id < padded_vocab_ ? *reinterpret_cast<const float4*>(work_.scores + id)
                                        : float4{-INFINITY, -INFINITY, -INFINITY, -INFINITY};
      }
      unsigned found = 0;
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        const float scores[4] = {vectors[v].x, vectors[v].y, vectors[v].z, vectors[v].w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const bool here = scores[i] > -INFINITY && bins_.Of(scores[i]) == bin_;
          found |= static_cast<unsigned>(here) << (4 * v + i);
        }
      }
      for (; found != 0; found &= found - 1) {  // few as a rule
        const int bit = __ffs(static_cast<int>(found)) - 1;
        const int id = begin + bit / 4 * 4 * kSelectThreads + bit % 4;
        const float score = work_.scores[id];
        const uint64_t key = KeyOf(score, id);
        if (key < floor) continue;
        visit(key, weighed ? FixedPoint(scores_.Weight(score, temperature_)) : uint64_t{1});
      }
    }
  }

  const SamplingWork& work_;
  const int padded_vocab_;
  const ScoreRow& scores_;
  const Bins& bins_;
  const float temperature_;
  const bool weighed_;
  List* const list_;
  int bin_ = -1;
  bool listed_ = false;
};

// The key from `floor` on at which weights, summed from the largest key down, reach `need`; 1 <=
// need <= their sum. Two bits of the key at a time, from the first in which candidates differ.
__device__ inline uint64_t KeyReaching(const BinCandidates& candidates, uint64_t floor,
                                       bool weighed, uint64_t need, uint64_t (&scratch)[32]) {
  uint64_t low = ~uint64_t{0};
  uint64_t high = 0;
  candidates.ForEach(floor, /*weighed=*/false, [&](uint64_t key, uint64_t) {
    low = Smallest{}(low, key);
    high = Largest{}(high, key);
  });
  low = BlockReduce(low, Smallest{}, scratch);
  high = BlockReduce(high, Largest{}, scratch);
  if (low == high) return high;
  int shift = (63 - __clzll(static_cast<long long>(low ^ high))) / 2 * 2;
  uint64_t prefix = high >> (shift + 2) << (shift + 2);
  for (; shift >= 0; shift -= 2) {
    uint64_t from1 = 0;  // weight of digits from 1 on, of those that share the prefix
    uint64_t from2 = 0;
    uint64_t from3 = 0;
    candidates.ForEach(floor, weighed, [&](uint64_t key, uint64_t weight) {
      if ((key ^ prefix) >> (shift + 2) != 0) return;
      const unsigned digit = static_cast<unsigned>(key >> shift) & 3;
      if (digit >= 1) from1 += weight;
      if (digit >= 2) from2 += weight;
      if (digit == 3) from3 += weight;
    });
    from1 = BlockReduce(from1, Plus{}, scratch);
    from2 = BlockReduce(from2, Plus{}, scratch);
    from3 = BlockReduce(from3, Plus{}, scratch);
    uint64_t digit = 0;
    if (need <= from3) {
      digit = 3;
    } else if (need <= from2) {
      digit = 2;
      need -= from3;
    } else if (need <= from1) {
      digit = 1;
      need -= from2;
    } else {
      need -= from1;
    }
    prefix |= digit << shift;
  }
  return prefix;
}

// Grid (rows). Steps 6 and 7: the smallest key that stays.
__global__ __launch_bounds__(kSelectThreads) void SamplingSelectKernel(
    const SamplingCudaRow* rows, SamplingWorkspace workspace) {
  __shared__ uint64_t scratch[32];
  __shared__ BinPlace place_of_block;
  __shared__ BinCandidates::List list;
  const SamplingCudaRow row = rows[blockIdx.x];
  if (!Selects(row)) return;
  const SamplingWork work = workspace.Row(static_cast<int>(blockIdx.x));
  const ScoreRow scores(work, workspace.num_chunks, scratch);
  if (scores.best == 0) return;
  const Bins bins(scores, row.temperature);
  const auto count_of = [&](int bin) { return uint64_t{work.bin_count[bin]}; };
  const auto mass_of = [&](int bin) { return work.bin_mass[bin]; };
  const auto sum_of_bins = [&](auto value_of, int end) {
    uint64_t sum = 0;
    for (int bin = static_cast<int>(threadIdx.x); bin < end; bin += kSelectThreads) {
      sum += value_of(bin);
    }
    return BlockReduce(sum, Plus{}, scratch);
  };

  const bool weighed = row.top_p < 1;
  BinCandidates candidates(work, workspace.num_chunks * kChunkTokens, scores, bins, row.temperature,
                           weighed, &list);
  uint64_t threshold = 0;
  uint64_t mass = weighed ? sum_of_bins(mass_of, kBins) : 0;
  if (row.top_k > 0 && static_cast<uint64_t>(row.top_k) < sum_of_bins(count_of, kBins)) {
    const BinPlace place = FindBin(count_of, row.top_k, &place_of_block, scratch);
    candidates.Load(place.bin);
    threshold =
        KeyReaching(candidates, /*floor=*/0, /*weighed=*/false, row.top_k - place.before, scratch);
    if (weighed) {
      uint64_t kept = 0;
      candidates.ForEach(threshold, weighed, [&](uint64_t, uint64_t weight) { kept += weight; });
      mass = sum_of_bins(mass_of, place.bin) + BlockReduce(kept, Plus{}, scratch);
    }
  }
  if (weighed) {
    const uint64_t wanted = __double2ull_ru(double{row.top_p} * static_cast<double>(mass));
    const uint64_t need = wanted < 1 ? 1 : (wanted > mass ? mass : wanted);
    const BinPlace place = FindBin(mass_of, need, &place_of_block, scratch);
    candidates.Load(place.bin);
    threshold = KeyReaching(candidates, threshold, weighed, need - place.before, scratch);
  }
  if (threadIdx.x == 0) *work.threshold = threshold;
}

}  // namespace longhaul::kernels
