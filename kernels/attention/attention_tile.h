#pragma once

#include <cstdint>

#include "kernels/attention/attention.h"
#include "kernels/cpu_isa.h"

namespace longhaul::kernels {

// Inside of AttentionCpu: one task, for the files that hold its code for one instruction set. Plain
// data and no functions, because such a file may not instantiate anything that others share: the
// linker could keep its copy, with its instructions, for all.

inline constexpr int32_t kAttentionTileRows = 128;  // stacked rows of a tile at most

// Queries [position, position + num_queries) of one sequence, all in one KV block, times the
// `group` query heads of one KV head: row t * group + g of the tile is head g of query t.
struct AttentionTile {
  // Rows of query 0, head 0 of the group; heads are D, queries query_stride elements apart.
  const float* q_inter;
  const float* q_succ;
  const float* q_intra;
  float* out;
  int64_t query_stride;
  int32_t num_queries;
  int32_t group;
  int64_t position;
  // KV blocks: inter before succ_block, succ before intra_block, intra up to the queries' own.
  int64_t succ_block;
  int64_t intra_block;
  int64_t last_block;
  // The cache of this KV head.
  const uint8_t* k_base;  // K of block id 0
  const uint8_t* v_base;  // V of block id 0
  int64_t block_stride_bytes;
  const int32_t* block_table;
  float log2_scale;  // softmax_scale * log2(e)
  // Outputs: a row's largest score (unscaled) and sum of 2^((score - largest) * log2_scale).
  float* row_max;  // [num_queries * group]
  float* row_sum;  // [num_queries * group]
};

using AttentionTileFunction = void (*)(const AttentionTile&);

// Null if head_dim is not 64 or 128.
AttentionTileFunction AttentionTilePortable(int32_t head_dim, KvDtype dtype);
AttentionTileFunction AttentionTileAvx2(int32_t head_dim, KvDtype dtype);    // x86 builds only
AttentionTileFunction AttentionTileAvx512(int32_t head_dim, KvDtype dtype);  // x86 builds only

// AttentionCpu with the code of one instruction set, which the machine must have: for tests.
KernelStatus AttentionCpuWith(CpuIsa isa, const AttentionParams& p, Parallel& parallel);

}  // namespace longhaul::kernels
