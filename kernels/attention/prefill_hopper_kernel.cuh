#pragma once

#include <cuda.h>
#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/attention/paged_attention.h"
#include "kernels/attention/softmax.cuh"
#include "kernels/cuda/hopper.cuh"

// Prefill attention for Hopper.
//
// Grid: clusters of two blocks, as many as the device has multiprocessors for. A cluster takes work
// items cluster, cluster + clusters, ...; an item is a query tile (256 rows of one sequence) of one
// head, heads fastest, so that the heads that share K and V read them from the L2 cache at about
// the same time. Each block has 128 of the rows. Block: 384 threads. Warpgroup 0 produces: one
// thread has the copy engine bring the block's Q, and half of each K and V tile for both blocks.
// Warpgroups 1 and 2 consume, 64 rows each: scores of tile j, and the product of tile j - 1's
// weights with its V, are at work while the softmax of the other warpgroup runs.
//
// Work: 4 D flops a pair of query and key in the tensor cores (bound), against one exponential and
// about four other operations. K and V come from L2 once a cluster: 4 D bytes a key for 256 rows.
//
// Bits: every row sees key tiles of 128 in ascending order; keys it does not see have weight 0.

namespace longhaul::kernels {

template <int kHeadDim>
struct PrefillTraits {
  static constexpr int kBlocks = 2;  // of a cluster
  static constexpr int kRows = kPrefillTileRows / kBlocks;
  static constexpr int kKeys = kPrefillTileKeys;
  static constexpr int kStages = 2;
  static constexpr int kQBuffers = 2;  // the next region's or item's Q comes while one is in use
  static constexpr int kConsumers = 2;
  static constexpr int kConsumerWarps = 4 * kConsumers;
  static constexpr int kThreads = 128 * (1 + kConsumers);
  // A block starts with 168 registers a thread, all that a multiprocessor has for 384 threads.
  static constexpr int kProducerRegisters = 24;
  static constexpr int kConsumerRegisters = 240;
  static_assert(128 * (kProducerRegisters + kConsumers * kConsumerRegisters) <= 168 * kThreads,
                "taking registers that were not given waits forever");
  static constexpr int kSlabs = kHeadDim / 64;  // of 64 columns, see hopper::DescribeRows
  static constexpr int kSlabBytes = kKeys * 128;
  static constexpr int kTileBytes = kSlabs * kSlabBytes;  // of Q, K or V
  static_assert(kHeadDim % 64 == 0, "a head must be whole slabs");
  static_assert(kRows == kKeys,
                "Q, K and V tiles have one size; the last key tile is the diagonal");
  static_assert(kBlockTokens % kKeys == 0, "a key tile must lie in one KV block");
};

template <int kHeadDim>
struct PrefillShared {
  using Traits = PrefillTraits<kHeadDim>;
  alignas(1024) uint8_t q[Traits::kQBuffers][Traits::kTileBytes];
  alignas(1024) uint8_t k[Traits::kStages][Traits::kTileBytes];
  alignas(1024) uint8_t v[Traits::kStages][Traits::kTileBytes];
  uint64_t q_full[Traits::kQBuffers], q_empty[Traits::kQBuffers];
  uint64_t k_full[Traits::kStages], k_empty[Traits::kStages];
  uint64_t v_full[Traits::kStages], v_empty[Traits::kStages];
};
static_assert(sizeof(PrefillShared<128>) <= 227 * 1024, "a block's shared memory");

struct PrefillKernelParams {
  CUtensorMap q[3];  // inter, succ, intra: [T, Hq, D], box [128, 1, 64]
  CUtensorMap kv;    // [blocks, 2 Hkv, 256, D], box [1, 1, 64, 64]
  const PrefillTile* tiles;
  const int32_t* block_tables;
  __nv_bfloat16* out;
  float* lse;
  int64_t chunk_len;
  int32_t num_items;  // tiles * Hq
  int32_t num_q_heads;
  int32_t num_kv_heads;
  float softmax_scale;
};

// A place in a ring of kSize buffers, and the parity of its current round.
template <int kSize>
struct RingPlace {
  int32_t index = 0;
  uint32_t parity = 0;
  __device__ void Advance() {
    if (++index == kSize) {
      index = 0;
      parity ^= 1;
    }
  }
};

// Key tiles of a query tile: up to the last row that is the sequence's, for both blocks, so that
// they take the same copies.
__device__ inline int32_t EndOfKeys(const PrefillTile& tile) {
  return (tile.position + tile.end - 1) / kPrefillTileKeys + 1;
}

template <int kHeadDim>
__device__ void PrefillProduce(const PrefillKernelParams& p, PrefillShared<kHeadDim>& shared) {
  using Traits = PrefillTraits<kHeadDim>;
  constexpr int32_t kTilesPerBlock = kBlockTokens / Traits::kKeys;
  constexpr int32_t kPart = Traits::kKeys / Traits::kBlocks;  // keys that this block brings
  constexpr uint16_t kAllBlocks = (1 << Traits::kBlocks) - 1;
  const int32_t rank = static_cast<int32_t>(hopper::ClusterRank());
  hopper::PrefetchTensorMap(&p.kv);
  for (const CUtensorMap& map : p.q) hopper::PrefetchTensorMap(&map);
  RingPlace<Traits::kStages> k_place, v_place;
  RingPlace<Traits::kQBuffers> q_place;
  const int32_t num_clusters = gridDim.x / Traits::kBlocks;
  for (int32_t item = blockIdx.x / Traits::kBlocks; item < p.num_items; item += num_clusters) {
    const PrefillTile tile = p.tiles[item / p.num_q_heads];
    const int32_t head = item % p.num_q_heads;
    const int32_t kv_head = head / (p.num_q_heads / p.num_kv_heads);
    const int32_t* table = p.block_tables + tile.table_begin;
    const KeyTiles regions(tile.position, p.chunk_len, Traits::kKeys);
    const int32_t end = EndOfKeys(tile);
    const auto load = [&](uint8_t* to, uint64_t* full, int32_t row_head, int32_t j, int32_t block) {
      hopper::BarrierExpectBytes(full, Traits::kTileBytes);  // both blocks' parts
      for (int slab = 0; slab < Traits::kSlabs; ++slab) {
        hopper::TmaLoad4dMulticast(
            to + slab * Traits::kSlabBytes + rank * kPart * 128, &p.kv, full, kAllBlocks, slab * 64,
            j % kTilesPerBlock * Traits::kKeys + rank * kPart, row_head, block);
      }
    };
    int32_t next_region = 0;  // key tile that needs another Q
    int32_t block = 0;        // of V's tile
    int32_t next_block = table[0];
    for (int32_t j = 0; j <= end; ++j) {  // K one tile ahead of V
      if (j < end) {
        if (j == next_region) {
          hopper::BarrierWait(&shared.q_empty[q_place.index], q_place.parity ^ 1);
          uint64_t* full = &shared.q_full[q_place.index];
          hopper::BarrierExpectBytes(full, Traits::kTileBytes);
          for (int slab = 0; slab < Traits::kSlabs; ++slab) {
            hopper::TmaLoad3d(shared.q[q_place.index] + slab * Traits::kSlabBytes,
                              &p.q[regions.Region(j)], full, slab * 64, head,
                              static_cast<int32_t>(tile.row_origin) + rank * Traits::kRows);
          }
          q_place.Advance();
          next_region = j < regions.intra ? regions.RegionEnd(j) : end;
        }
        hopper::BarrierWait(&shared.k_empty[k_place.index], k_place.parity ^ 1);
        load(shared.k[k_place.index], &shared.k_full[k_place.index], kv_head, j, next_block);
        k_place.Advance();
      }
      if (j > 0) {
        hopper::BarrierWait(&shared.v_empty[v_place.index], v_place.parity ^ 1);
        load(shared.v[v_place.index], &shared.v_full[v_place.index], p.num_kv_heads + kv_head,
             j - 1, block);
        v_place.Advance();
      }
      block = next_block;
      if (j + 1 < end) next_block = table[(j + 1) / kTilesPerBlock];
    }
  }
}

// Rows lane / 4 and lane / 4 + 8 of the warp's 16, as wgmma's results lie in a thread.
template <int kHeadDim>
struct PrefillRows {
  float scores[64];               // [2 rows, 32 of 128 keys]; then weights
  uint32_t weights[8][4];         // as wgmma takes them, bf16, for 16 keys each
  float sums[kHeadDim / 2] = {};  // [2 rows, D / 4]
  float largest[2] = {-INFINITY, -INFINITY};
  float total[2] = {0, 0};  // this thread's keys only
};

// Scores become weights, in fp32; `rescale` is what the sums so far must be multiplied with.
template <int kHeadDim>
__device__ void UpdateSoftmax(PrefillRows<kHeadDim>& rows, float log2_scale, float (&rescale)[2]) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float largest = rows.largest[h];
#pragma unroll
    for (int j = 0; j < 16; ++j) {
      largest = fmaxf(largest, fmaxf(rows.scores[4 * j + 2 * h], rows.scores[4 * j + 2 * h + 1]));
    }
    largest = QuadMax(largest);
    rescale[h] = Exp2((rows.largest[h] - largest) * log2_scale);
    rows.largest[h] = largest;
    const float offset = largest * log2_scale;
    float total = rows.total[h] * rescale[h];
#pragma unroll
    for (int j = 0; j < 16; ++j) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float& score = rows.scores[4 * j + 2 * h + e];
        score = Exp2(fmaf(score, log2_scale, -offset));
        total += score;
      }
    }
    rows.total[h] = total;
  }
}

template <int kHeadDim>
__device__ void PackWeights(PrefillRows<kHeadDim>& rows) {
#pragma unroll
  for (int k = 0; k < 8; ++k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      rows.weights[k][i] = PackBf16(rows.scores[8 * k + 2 * i], rows.scores[8 * k + 2 * i + 1]);
    }
  }
}

// Keys behind a row's own. `row` is the position of the thread's first, from the tile's first key
// on; below 0 where no key is seen.
template <int kHeadDim>
__device__ void MaskLaterKeys(PrefillRows<kHeadDim>& rows, int row) {
  const int column = 2 * (threadIdx.x % 4);
#pragma unroll
  for (int j = 0; j < 16; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (8 * j + column + i % 2 > row + 8 * (i / 2)) rows.scores[4 * j + i] = -INFINITY;
    }
  }
}

template <int kHeadDim>
__device__ void IssueScores(PrefillRows<kHeadDim>& rows, uint32_t q, uint32_t k) {
  using Traits = PrefillTraits<kHeadDim>;
#pragma unroll
  for (int step = 0; step < kHeadDim / 16; ++step) {
    const uint32_t offset = step / 4 * Traits::kSlabBytes + step % 4 * 32;
    hopper::WgmmaRows(rows.scores, hopper::DescribeRows(q + offset),
                      hopper::DescribeRows(k + offset), step > 0);
  }
  hopper::WgmmaCommit();
}

template <int kHeadDim>
__device__ void IssueWeighted(PrefillRows<kHeadDim>& rows, uint32_t v) {
  using Traits = PrefillTraits<kHeadDim>;
#pragma unroll
  for (int step = 0; step < Traits::kKeys / 16; ++step) {
    hopper::WgmmaColumns(rows.sums, rows.weights[step],
                         hopper::DescribeColumns(v + step * 16 * 128, Traits::kSlabBytes));
  }
  hopper::WgmmaCommit();
}

template <int kHeadDim>
__device__ void StoreRows(const PrefillKernelParams& p, const PrefillTile& tile, int32_t head,
                          int first_row, const PrefillRows<kHeadDim>& rows) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = first_row + 8 * h;
    const bool own = row >= tile.begin && row < tile.end;
    const int64_t index = (tile.row_origin + row) * p.num_q_heads + head;
    const float total = QuadSum(rows.total[h]);
    const float inverse = 1.0f / total;
#pragma unroll
    for (int group = 0; group < kHeadDim / 32;
         ++group) {  // 32 columns: 8 for each lane of the quad
      uint32_t words[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int i = 4 * (4 * group + j) + 2 * h;
        words[j] = PackBf16(rows.sums[i] * inverse + 0.0f, rows.sums[i + 1] * inverse + 0.0f);
      }
      QuadTranspose(words);
      if (own) {
        __nv_bfloat16* to = p.out + index * kHeadDim + 32 * group + 8 * (threadIdx.x % 4);
        *reinterpret_cast<uint4*>(to) = make_uint4(words[0], words[1], words[2], words[3]);
      }
    }
    if (own && p.lse != nullptr && threadIdx.x % 4 == 0) {
      p.lse[index] = rows.largest[h] * p.softmax_scale + logf(total);
    }
  }
}

template <int kHeadDim>
__device__ void PrefillConsume(const PrefillKernelParams& p, PrefillShared<kHeadDim>& shared) {
  using Traits = PrefillTraits<kHeadDim>;
  const int group = threadIdx.x / 128 - 1;
  const int warp = threadIdx.x % 128 / 32;
  const int lane = threadIdx.x % 32;
  const int first_row =
      static_cast<int>(hopper::ClusterRank()) * Traits::kRows + 64 * group + 16 * warp + lane / 4;
  const float log2_scale = p.softmax_scale * kLog2E;
  // The warpgroups take turns to issue products: the tensor cores never wait for a softmax.
  constexpr int kTurnThreads = 128 * Traits::kConsumers;
  const int own_turn = 1 + group;
  const int other_turn = 2 - group;
  if (group == 1) hopper::NamedBarrierArrive(other_turn, kTurnThreads);

  // A buffer of K or V is filled by both blocks, when the consumers of both have read it.
  const auto release = [&](uint64_t* empty) {
    if (lane < Traits::kBlocks) hopper::BarrierArriveAt(empty, lane);
  };

  RingPlace<Traits::kStages> k_place, v_place;
  RingPlace<Traits::kQBuffers> q_place;
  const int32_t num_clusters = gridDim.x / Traits::kBlocks;
  for (int32_t item = blockIdx.x / Traits::kBlocks; item < p.num_items; item += num_clusters) {
    const PrefillTile tile = p.tiles[item / p.num_q_heads];
    const int32_t head = item % p.num_q_heads;
    const KeyTiles regions(tile.position, p.chunk_len, Traits::kKeys);
    const int32_t end = EndOfKeys(tile);
    PrefillRows<kHeadDim> rows;
    float rescale[2];
    int32_t next_region = 0 < regions.intra ? regions.RegionEnd(0) : end;

    hopper::BarrierWait(&shared.q_full[q_place.index], q_place.parity);
    uint32_t q = hopper::SharedAddress(shared.q[q_place.index]) + group * 64 * 128;
    hopper::BarrierWait(&shared.k_full[k_place.index], k_place.parity);
    hopper::PinRegisters(rows.scores);
    hopper::WgmmaFence();
    IssueScores(rows, q, hopper::SharedAddress(shared.k[k_place.index]));
    hopper::WgmmaWait<0>();
    hopper::PinRegisters(rows.scores);
    release(&shared.k_empty[k_place.index]);
    k_place.Advance();
    if (end <= 2) MaskLaterKeys(rows, tile.position + first_row);
    UpdateSoftmax(rows, log2_scale, rescale);
    PackWeights(rows);

    const auto step = [&](int32_t j, bool is_masked) {
      if (j == next_region) {
        if (lane == 0) hopper::BarrierArrive(&shared.q_empty[q_place.index]);
        q_place.Advance();
        hopper::BarrierWait(&shared.q_full[q_place.index], q_place.parity);
        q = hopper::SharedAddress(shared.q[q_place.index]) + group * 64 * 128;
        next_region = j < regions.intra ? regions.RegionEnd(j) : end;
      }
      hopper::BarrierWait(&shared.k_full[k_place.index], k_place.parity);
      hopper::NamedBarrierSync(own_turn, kTurnThreads);
      hopper::PinRegisters(rows.scores);
      hopper::PinRegisters(rows.sums);
      hopper::WgmmaFence();
      IssueScores(rows, q, hopper::SharedAddress(shared.k[k_place.index]));
      hopper::BarrierWait(&shared.v_full[v_place.index], v_place.parity);
      IssueWeighted(rows, hopper::SharedAddress(shared.v[v_place.index]));
      hopper::NamedBarrierArrive(other_turn, kTurnThreads);
      hopper::WgmmaWait<1>();
      hopper::PinRegisters(rows.scores);
      release(&shared.k_empty[k_place.index]);
      k_place.Advance();
      if (is_masked) MaskLaterKeys(rows, tile.position + first_row - j * Traits::kKeys);
      UpdateSoftmax(rows, log2_scale, rescale);
      hopper::WgmmaWait<0>();
      hopper::PinRegisters(rows.sums);
      release(&shared.v_empty[v_place.index]);
      v_place.Advance();
      // Largest scores change seldom after the first tiles; a factor of 1 changes no bit.
      if (__any_sync(0xffffffff, rescale[0] != 1 || rescale[1] != 1)) {
#pragma unroll
        for (int i = 0; i < kHeadDim / 2; ++i) rows.sums[i] *= rescale[i / 2 % 2];
      }
      PackWeights(rows);
    };
#pragma unroll 1
    for (int32_t j = 1; j < end - 2; ++j) step(j, false);
#pragma unroll 1
    for (int32_t j = max(1, end - 2); j < end; ++j) step(j, true);

    if (lane == 0) hopper::BarrierArrive(&shared.q_empty[q_place.index]);
    q_place.Advance();
    hopper::BarrierWait(&shared.v_full[v_place.index], v_place.parity);
    hopper::PinRegisters(rows.sums);
    hopper::WgmmaFence();
    IssueWeighted(rows, hopper::SharedAddress(shared.v[v_place.index]));
    hopper::WgmmaWait<0>();
    hopper::PinRegisters(rows.sums);
    release(&shared.v_empty[v_place.index]);
    v_place.Advance();
    StoreRows(p, tile, head, first_row, rows);
  }
}

template <int kHeadDim>
__global__ void __cluster_dims__(PrefillTraits<kHeadDim>::kBlocks, 1, 1)
    __launch_bounds__(PrefillTraits<kHeadDim>::kThreads, 1)
        PrefillHopperKernel(const __grid_constant__ PrefillKernelParams p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using Traits = PrefillTraits<kHeadDim>;
  extern __shared__ __align__(1024) uint8_t memory[];
  auto& shared = *reinterpret_cast<PrefillShared<kHeadDim>*>(memory);
  if (threadIdx.x == 0) {
    for (int i = 0; i < Traits::kQBuffers; ++i) {
      hopper::BarrierInit(&shared.q_full[i], 1);
      hopper::BarrierInit(&shared.q_empty[i], Traits::kConsumerWarps);
    }
    for (int i = 0; i < Traits::kStages; ++i) {
      hopper::BarrierInit(&shared.k_full[i], 1);
      hopper::BarrierInit(&shared.v_full[i], 1);
      hopper::BarrierInit(&shared.k_empty[i], Traits::kBlocks * Traits::kConsumerWarps);
      hopper::BarrierInit(&shared.v_empty[i], Traits::kBlocks * Traits::kConsumerWarps);
    }
    hopper::BarrierInitFence();
  }
  hopper::ClusterSync();
  if (threadIdx.x < 128) {
    hopper::GiveRegisters<Traits::kProducerRegisters>();
    if (threadIdx.x == 0) PrefillProduce(p, shared);
  } else {
    hopper::TakeRegisters<Traits::kConsumerRegisters>();
    PrefillConsume(p, shared);
  }
  __syncwarp();
  hopper::ClusterSync();  // the other block may still copy here, and free buffers here
#else
  __trap();
#endif
}

}  // namespace longhaul::kernels
