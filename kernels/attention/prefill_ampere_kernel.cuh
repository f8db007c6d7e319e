#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/attention/paged_attention.h"
#include "kernels/attention/softmax.cuh"
#include "kernels/attention/warp_rows.cuh"
#include "kernels/cuda/ampere.cuh"

// Prefill attention for every device since Ampere: slower than the Hopper kernel by half, and the
// same answers within rounding.
//
// Grid: one block a query tile (128 rows of one sequence) of one head, heads fastest. Block: 8
// warps, 16 rows each, with their queries in registers. Key tiles of 64 come by asynchronous copies
// into two buffers.
//
// Work: 4 D flops a pair of query and key in the tensor cores (bound).
//
// Bits: every row sees key tiles of 64 in ascending order; keys it does not see have weight 0.

namespace longhaul::kernels {

template <int kHeadDim>
struct AmpereTraits {
  static constexpr int kBlocks = 2;  // of a query tile
  static constexpr int kRows = kPrefillTileRows / kBlocks;
  static constexpr int kWarps = kRows / 16;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kKeys = 64;
  static constexpr int kStages = 2;
  static constexpr int kTileBytes = kKeys * kHeadDim * 2;  // of K or V
  static constexpr int kChunks = kHeadDim / 8;             // of 16 bytes, in a key's row
  static_assert(kKeys * kChunks % kThreads == 0, "each thread copies as much as another");
  static_assert(kBlockTokens % kKeys == 0, "a key tile must lie in one KV block");
};

template <int kHeadDim>
struct AmpereShared {
  using Traits = AmpereTraits<kHeadDim>;
  alignas(128) uint8_t k[Traits::kStages][Traits::kTileBytes];
  alignas(128) uint8_t v[Traits::kStages][Traits::kTileBytes];
};

struct AmpereKernelParams {
  const __nv_bfloat16* q[3];  // inter, succ, intra
  const PrefillTile* tiles;
  const int32_t* block_tables;
  const uint8_t* kv_base;
  int64_t block_stride_bytes;
  int64_t v_offset;    // from K to V in a block
  int64_t head_bytes;  // of K or V
  __nv_bfloat16* out;
  float* lse;
  int64_t chunk_len;
  int32_t num_q_heads;
  int32_t group;  // Hq / Hkv
  float softmax_scale;
};

template <int kHeadDim>
__device__ void StoreWarpRows(const AmpereKernelParams& p, const PrefillTile& tile, int32_t head,
                              int warp_row, const WarpRows<kHeadDim>& rows) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = warp_row + lane / 4 + 8 * h;
    const float total = QuadSum(rows.total[h]);
    if (row < tile.begin || row >= tile.end) continue;
    const int64_t index = (tile.row_origin + row) * p.num_q_heads + head;
    const float inverse = 1.0f / total;
#pragma unroll
    for (int n = 0; n < kHeadDim / 8; ++n) {
      const uint32_t pair =
          PackBf16(rows.sums[n][2 * h] * inverse, rows.sums[n][2 * h + 1] * inverse);
      *reinterpret_cast<uint32_t*>(p.out + index * kHeadDim + 8 * n + 2 * (lane % 4)) = pair;
    }
    if (p.lse != nullptr && lane % 4 == 0) {
      p.lse[index] = rows.largest[h] * p.softmax_scale + logf(total);
    }
  }
}

template <int kHeadDim>
__global__ void __launch_bounds__(AmpereTraits<kHeadDim>::kThreads)
    PrefillAmpereKernel(const __grid_constant__ AmpereKernelParams p) {
  using Traits = AmpereTraits<kHeadDim>;
  extern __shared__ __align__(128) uint8_t memory[];
  auto& shared = *reinterpret_cast<AmpereShared<kHeadDim>*>(memory);
  const int32_t item = static_cast<int32_t>(blockIdx.x) / Traits::kBlocks;
  const int32_t first_row = static_cast<int32_t>(blockIdx.x) % Traits::kBlocks * Traits::kRows;
  const PrefillTile tile = p.tiles[item / p.num_q_heads];
  const int32_t head = item % p.num_q_heads;
  if (first_row >= tile.end || first_row + Traits::kRows <= tile.begin) return;
  const int64_t head_offset = head / p.group * p.head_bytes;
  const int32_t* table = p.block_tables + tile.table_begin;
  const int warp_row = first_row + static_cast<int>(threadIdx.x / 32) * 16;
  const int lane = threadIdx.x % 32;
  const float log2_scale = p.softmax_scale * kLog2E;
  // Regions end where query tiles do; the tile's own keys are its last.
  const KeyTiles regions(tile.position, p.chunk_len, Traits::kKeys);
  const int32_t last_row = min(tile.end, first_row + Traits::kRows) - 1;
  const int32_t end = (tile.position + last_row) / Traits::kKeys + 1;

  const auto load = [&](int32_t j) {
    if (j < end) {
      const int32_t key = j * Traits::kKeys;
      const uint8_t* from = p.kv_base + table[key / kBlockTokens] * p.block_stride_bytes +
                            head_offset + int64_t{key % kBlockTokens} * kHeadDim * 2;
      uint8_t* const k = shared.k[j % Traits::kStages];
      uint8_t* const v = shared.v[j % Traits::kStages];
#pragma unroll
      for (int n = 0; n < Traits::kKeys * Traits::kChunks / Traits::kThreads; ++n) {
        const int chunk = n * Traits::kThreads + static_cast<int>(threadIdx.x);
        const int to = SwizzledOffset<kHeadDim>(chunk / Traits::kChunks, chunk % Traits::kChunks);
        ampere::CopyAsync16(k + to, from + chunk * 16);
        ampere::CopyAsync16(v + to, from + p.v_offset + chunk * 16);
      }
    }
    ampere::CopyCommit();  // also an empty one: groups are counted
  };

  WarpRows<kHeadDim> rows;
  const int32_t position = tile.position + warp_row + lane / 4;
  int32_t next_region = 0;  // key tile that needs other queries
  load(0);
  for (int32_t j = 0; j < end; ++j) {
    if (j == next_region) {
      const int64_t stride = int64_t{p.num_q_heads} * kHeadDim;
      // Rows that are not the sequence's are another's, or nobody's: they count as zeros.
      LoadQueries(p.q[regions.Region(j)] + (tile.row_origin + warp_row) * stride + head * kHeadDim,
                  stride, tile.end - warp_row, rows, tile.begin - warp_row);
      next_region = j < regions.intra ? regions.RegionEnd(j) : end;
    }
    load(j + 1);
    ampere::CopyWait<1>();
    __syncthreads();  // all threads' copies of this tile
    const int32_t key = j * Traits::kKeys;
    AttendKeys<kHeadDim, Traits::kKeys>(
        shared.k[j % Traits::kStages], shared.v[j % Traits::kStages], log2_scale, key,
        key + Traits::kKeys > tile.position + first_row, {position, position + 8}, rows);
    __syncthreads();  // all have read it: the next round overwrites it
  }
  StoreWarpRows(p, tile, head, warp_row, rows);
}

}  // namespace longhaul::kernels
