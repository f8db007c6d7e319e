#include <algorithm>
#include <cmath>

#include "kernels/attention/attention.h"
#include "kernels/attention/attention_tile.h"

namespace longhaul::kernels {
namespace {

bool Valid(const AttentionParams& p) {
  const KvLayout& layout = p.kv.layout;
  if (p.num_rows < 0 || p.query_begin < 0 || layout.num_kv_heads < 1 || p.num_q_heads < 1 ||
      p.num_q_heads % layout.num_kv_heads != 0) {
    return false;
  }
  if (p.chunk_len < 0 || p.chunk_len % kBlockTokens != 0 || !(p.softmax_scale > 0)) return false;
  const int64_t end = p.query_begin + p.num_rows;
  if (end > int64_t{p.kv.num_blocks} * kBlockTokens ||
      p.kv.block_stride_bytes < layout.BlockBytes()) {
    return false;
  }
  if (p.num_rows == 0) return true;
  const bool any_succ = p.chunk_len > 0 && end > p.chunk_len;
  const bool any_inter = p.chunk_len > 0 && end > 2 * p.chunk_len;
  return p.q_intra != nullptr && p.out != nullptr && (p.q_succ != nullptr || !any_succ) &&
         (p.q_inter != nullptr || !any_inter);
}

AttentionTileFunction TileFunction(CpuIsa isa, const KvLayout& layout) {
  switch (isa) {
#ifdef LONGHAUL_KERNELS_X86
    case CpuIsa::kAvx512:
      return AttentionTileAvx512(layout.head_dim, layout.dtype);
    case CpuIsa::kAvx2:
      return AttentionTileAvx2(layout.head_dim, layout.dtype);
#endif
    default:
      return AttentionTilePortable(layout.head_dim, layout.dtype);
  }
}

// Queries of a full tile: a power of two, so that tiles cut at its absolute multiples lie in one KV
// block, and with it in one segment.
int64_t TileQueries(int32_t group) {
  int64_t queries = 1;
  while (queries * 2 * group <= kAttentionTileRows) queries *= 2;
  return queries;
}

const float* OffsetOrNull(const float* rows, int64_t offset) {
  return rows == nullptr ? nullptr : rows + offset;
}

// Queries [begin, end) of the call (not absolute) for one KV head, without the row statistics.
AttentionTile MakeTile(const AttentionParams& p, int64_t begin, int64_t end, int32_t kv_head) {
  const KvLayout& layout = p.kv.layout;
  const int32_t group = p.num_q_heads / layout.num_kv_heads;
  const int64_t query_stride = int64_t{p.num_q_heads} * layout.head_dim;
  const int64_t offset = begin * query_stride + int64_t{kv_head} * group * layout.head_dim;
  const int64_t position = p.query_begin + begin;
  const int64_t segment = p.chunk_len == 0 ? 0 : position / p.chunk_len;
  const int64_t segment_blocks = p.chunk_len / kBlockTokens;
  AttentionTile tile = {};
  tile.q_inter = OffsetOrNull(p.q_inter, offset);
  tile.q_succ = OffsetOrNull(p.q_succ, offset);
  tile.q_intra = p.q_intra + offset;
  tile.out = p.out + offset;
  tile.query_stride = query_stride;
  tile.num_queries = static_cast<int32_t>(end - begin);
  tile.group = group;
  tile.position = position;
  tile.succ_block = std::max<int64_t>(segment - 1, 0) * segment_blocks;
  tile.intra_block = segment * segment_blocks;
  tile.last_block = position / kBlockTokens;
  tile.k_base = p.kv.base + layout.KOffset(kv_head);
  tile.v_base = p.kv.base + layout.VOffset(kv_head);
  tile.block_stride_bytes = p.kv.block_stride_bytes;
  tile.block_table = p.kv.block_table;
  tile.log2_scale = p.softmax_scale * 1.44269504088896341f;
  return tile;
}

}  // namespace

KernelStatus AttentionCpuWith(CpuIsa isa, const AttentionParams& p, Parallel& parallel) {
  if (!Valid(p)) return KernelStatus::kInvalidArgument;
  const int32_t kv_heads = p.kv.layout.num_kv_heads;
  const int32_t group = p.num_q_heads / kv_heads;
  const AttentionTileFunction run_tile = TileFunction(isa, p.kv.layout);
  if (run_tile == nullptr || group > kAttentionTileRows) return KernelStatus::kUnimplemented;
  if (p.num_rows == 0) return KernelStatus::kOk;

  const int64_t tile_queries = TileQueries(group);
  const int64_t first_tile = p.query_begin / tile_queries;
  const int64_t last_tile = (p.query_begin + p.num_rows - 1) / tile_queries;
  // Longest first: the last tile sees the most keys.
  parallel.Run((last_tile - first_tile + 1) * kv_heads, [&](int64_t task) {
    const int64_t tile_idx = last_tile - task / kv_heads;
    const int32_t kv_head = static_cast<int32_t>(task % kv_heads);
    const int64_t tile_begin = tile_idx * tile_queries - p.query_begin;
    const int64_t begin = std::max<int64_t>(tile_begin, 0);
    const int64_t end = std::min(tile_begin + tile_queries, p.num_rows);
    float row_max[kAttentionTileRows];
    float row_sum[kAttentionTileRows];
    AttentionTile tile = MakeTile(p, begin, end, kv_head);
    tile.row_max = row_max;
    tile.row_sum = row_sum;
    run_tile(tile);
    if (p.lse == nullptr) return;
    for (int32_t row = 0; row < tile.num_queries * group; ++row) {
      p.lse[(begin + row / group) * p.num_q_heads + int64_t{kv_head} * group + row % group] =
          row_max[row] * p.softmax_scale + std::log(row_sum[row]);
    }
  });
  return KernelStatus::kOk;
}

KernelStatus AttentionCpu(const AttentionParams& p, Parallel& parallel) {
  return AttentionCpuWith(BestCpuIsa(), p, parallel);
}

}  // namespace longhaul::kernels
