#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/attention/paged_attention.h"
#include "kernels/attention/softmax.cuh"
#include "kernels/attention/warp_rows.cuh"
#include "kernels/cuda/ampere.cuh"
#include "kernels/cuda/chained_launch.cuh"

// Decode attention, on every device since Ampere.
//
// DecodeSplitKernel: grid (splits, Hkv); block: 4 warps. All query heads of a KV head are the rows
// of one product, so K and V are read once for them. A warp takes every fourth run of 16 keys and
// streams them through its own buffers: no warp waits for another until the end, when their sums
// are merged in shared memory. DecodeMergeKernel: grid (rows, Hq), block: D threads; has nothing to
// do for rows of one split, whose results are those of the row.
//
// Memory-bound: 4 D bytes a key and KV head (K and V, bf16) against 4 D flops for each of Hq / Hkv
// heads; 2 blocks a multiprocessor keep 128 KiB on their way.
//
// Bits: a row's keys are dealt to splits and warps by its own length; merges go in a fixed order.

namespace longhaul::kernels {

template <int kHeadDim>
struct DecodeTraits {
  static constexpr int kWarps = 4;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kRows = 16;  // of a product; Hq / Hkv of them are used
  static constexpr int kKeys = 16;  // of a warp's run
  static constexpr int kStages = 3;
  static constexpr int kRunBytes = kKeys * kHeadDim * 2;  // of K or V
  static constexpr int kChunks = kHeadDim / 8;            // of 16 bytes, in a key's row
  static constexpr int kRunsPerBlock = kBlockTokens / (kKeys * kWarps);  // of one warp
  static_assert(kHeadDim % 64 == 0, "the swizzle permutes eight chunks of a row");
  static_assert(kPrefillTileKeys % kKeys == 0, "a run with a seen key has finite V");
};

template <int kHeadDim>
struct DecodeShared {
  using Traits = DecodeTraits<kHeadDim>;
  struct Run {
    uint8_t k[Traits::kRunBytes];
    uint8_t v[Traits::kRunBytes];
  };
  struct Sums {
    float sums[Traits::kRows][kHeadDim];
    float largest[Traits::kRows];
    float total[Traits::kRows];
  };
  union Warp {
    Run runs[Traits::kStages];
    Sums sums;  // at the end
  };
  alignas(128) Warp warps[Traits::kWarps];
};

struct DecodeKernelParams {
  const __nv_bfloat16* q[3];  // inter, succ, intra
  const int32_t* block_tables;
  const uint8_t* kv_base;
  int64_t block_stride_bytes;
  int64_t v_offset;    // from K to V in a block
  int64_t head_bytes;  // of K or V
  const DecodeSplit* splits;
  float* partial_sums;   // [splits, Hq, D], not divided by the total
  float2* partial_rows;  // [splits, Hq] largest score and total
  __nv_bfloat16* out;    // [T, Hq, D]
  float* lse;            // [T, Hq], or null
  int64_t chunk_len;
  int32_t num_q_heads;
  int32_t group;  // Hq / Hkv
  float softmax_scale;
};

// A head of a row, from its sums.
template <int kHeadDim>
__device__ void StoreHead(const DecodeKernelParams& p, int64_t row, int head, int column, float sum,
                          float largest, float total) {
  const int64_t index = row * p.num_q_heads + head;
  p.out[index * kHeadDim + column] = __float2bfloat16_rn(sum / total);
  if (p.lse != nullptr && column == 0) p.lse[index] = largest * p.softmax_scale + logf(total);
}

// The warps' sums become the block's, rows by rows.
template <int kHeadDim>
__device__ void MergeWarps(const DecodeKernelParams& p, const DecodeSplit& split,
                           DecodeShared<kHeadDim>& shared, const WarpRows<kHeadDim>& rows) {
  using Traits = DecodeTraits<kHeadDim>;
  const int lane = threadIdx.x % 32;
  auto& own = shared.warps[threadIdx.x / 32].sums;
  __syncwarp();
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = lane / 4 + 8 * h;
    const float total = QuadSum(rows.total[h]);
    if (lane % 4 == 0) {
      own.largest[row] = rows.largest[h];
      own.total[row] = total;
    }
#pragma unroll
    for (int n = 0; n < kHeadDim / 8; ++n) {
      *reinterpret_cast<float2*>(&own.sums[row][8 * n + 2 * (lane % 4)]) =
          make_float2(rows.sums[n][2 * h], rows.sums[n][2 * h + 1]);
    }
  }
  __syncthreads();
  const float log2_scale = p.softmax_scale * kLog2E;
  const bool is_whole_row =
      split.block_begin == 0 && split.block_end > split.position / kBlockTokens;
  const int first_head = blockIdx.y * p.group;
  for (int i = threadIdx.x; i < p.group * kHeadDim; i += Traits::kThreads) {
    const int row = i / kHeadDim;
    const int column = i % kHeadDim;
    float largest = -INFINITY;
    for (const auto& warp : shared.warps) largest = fmaxf(largest, warp.sums.largest[row]);
    float sum = 0;
    float total = 0;
    for (const auto& warp : shared.warps) {
      // A warp without a key has largest -inf and sums 0; the block has a key.
      const float factor = Exp2((warp.sums.largest[row] - largest) * log2_scale);
      sum += warp.sums.sums[row][column] * factor;
      total += warp.sums.total[row] * factor;
    }
    if (is_whole_row) {
      StoreHead<kHeadDim>(p, split.row, first_head + row, column, sum, largest, total);
      continue;
    }
    const int64_t place = int64_t{split.partial} * p.num_q_heads + first_head + row;
    p.partial_sums[place * kHeadDim + column] = sum;
    if (column == 0) p.partial_rows[place] = make_float2(largest, total);
  }
}

template <int kHeadDim>
__global__ void __launch_bounds__(DecodeTraits<kHeadDim>::kThreads)
    DecodeSplitKernel(const __grid_constant__ DecodeKernelParams p) {
  using Traits = DecodeTraits<kHeadDim>;
  extern __shared__ __align__(128) uint8_t memory[];
  auto& shared = *reinterpret_cast<DecodeShared<kHeadDim>*>(memory);
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  LetNextKernelStart();
  const DecodeSplit split = p.splits[blockIdx.x];
  if (split.block_begin >= split.block_end) {  // one that fills up a plan
    AwaitEarlierKernels();
    return;
  }
  const int32_t* table = p.block_tables + split.table_begin;
  const KeyTiles keys(split.position, p.chunk_len, kBlockTokens);
  const int64_t head_offset = blockIdx.y * p.head_bytes;

  // Runs of this warp, in order; the last ones may lie behind the row's position.
  const auto first_key = [&](int32_t i) {
    return (split.block_begin + i / Traits::kRunsPerBlock) * kBlockTokens +
           (i % Traits::kRunsPerBlock * Traits::kWarps + warp) * Traits::kKeys;
  };
  int32_t num_runs = (split.block_end - split.block_begin) * Traits::kRunsPerBlock;
  while (num_runs > 0 && first_key(num_runs - 1) > split.position) --num_runs;

  const auto load = [&](int32_t i) {
    if (i < num_runs) {
      auto& run = shared.warps[warp].runs[i % Traits::kStages];
      const int32_t key = first_key(i);
      const uint8_t* from = p.kv_base + table[key / kBlockTokens] * p.block_stride_bytes +
                            head_offset + int64_t{key % kBlockTokens} * kHeadDim * 2;
#pragma unroll
      for (int n = 0; n < Traits::kRunBytes / 512; ++n) {
        const int chunk = 32 * n + lane;
        const int to = SwizzledOffset<kHeadDim>(chunk / Traits::kChunks, chunk % Traits::kChunks);
        ampere::CopyAsync16(run.k + to, from + chunk * 16);
        ampere::CopyAsync16(run.v + to, from + p.v_offset + chunk * 16);
      }
    }
    ampere::CopyCommit();  // also an empty one: groups are counted
  };

  const float log2_scale = p.softmax_scale * kLog2E;
  WarpRows<kHeadDim> rows;
  // Keys and values of former tokens are there already.
  int32_t num_loaded = 0;
  while (num_loaded < Traits::kStages - 1 && num_loaded < num_runs &&
         first_key(num_loaded) + Traits::kKeys <= split.position) {
    load(num_loaded++);
  }
  AwaitEarlierKernels();
  while (num_loaded < Traits::kStages - 1) load(num_loaded++);
  int32_t next_region = split.block_begin;  // block that needs other queries
  for (int32_t i = 0; i < num_runs; ++i) {
    const int32_t block = split.block_begin + i / Traits::kRunsPerBlock;
    if (block == next_region) {
      const int64_t first_head = split.row * p.num_q_heads + blockIdx.y * p.group;
      LoadQueries(p.q[keys.Region(block)] + first_head * kHeadDim, kHeadDim, p.group, rows);
      next_region = keys.RegionEnd(block);
    }
    ampere::CopyWait<Traits::kStages - 2>();
    __syncwarp();  // other lanes' copies of this run; and all are done with the one before
    load(i + Traits::kStages - 1);
    const auto& run = shared.warps[warp].runs[i % Traits::kStages];
    const int32_t key = first_key(i);
    AttendKeys<kHeadDim, Traits::kKeys>(run.k, run.v, log2_scale, key,
                                        key + Traits::kKeys > split.position + 1,
                                        {split.position, split.position}, rows);
  }
  ampere::CopyWait<0>();
  MergeWarps(p, split, shared, rows);
}

template <int kHeadDim>
__global__ void __launch_bounds__(kHeadDim)
    DecodeMergeKernel(const DecodeRow* plan, const __grid_constant__ DecodeKernelParams p) {
  LetNextKernelStart();
  const DecodeRow row = plan[blockIdx.x];
  AwaitEarlierKernels();
  if (row.num_partials == 1) return;
  const int head = blockIdx.y;
  const float log2_scale = p.softmax_scale * kLog2E;
  const auto place = [&](int32_t i) {
    return int64_t{row.partial_begin + i} * p.num_q_heads + head;
  };
  float largest = -INFINITY;
  for (int32_t i = 0; i < row.num_partials; ++i) {
    largest = fmaxf(largest, p.partial_rows[place(i)].x);
  }
  float sum = 0;
  float total = 0;
  for (int32_t i = 0; i < row.num_partials; ++i) {
    const float2 partial = p.partial_rows[place(i)];
    const float factor = Exp2((partial.x - largest) * log2_scale);
    sum += p.partial_sums[place(i) * kHeadDim + threadIdx.x] * factor;
    total += partial.y * factor;
  }
  StoreHead<kHeadDim>(p, row.row, head, threadIdx.x, sum, largest, total);
}

}  // namespace longhaul::kernels
