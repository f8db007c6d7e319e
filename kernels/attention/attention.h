#pragma once

#include <cstdint>

#include "kernels/kv_cache/kv_layout.h"
#include "kernels/parallel.h"
#include "kernels/status.h"

namespace longhaul::kernels {

// Exact causal attention of consecutive queries of ONE sequence over its paged cache, with Dual
// Chunk Attention. A query at absolute position p, in segment n = p / chunk_len, sees
//   inter keys [0, (n-1) * chunk_len)               with its row of q_inter
//   succ  keys [(n-1) * chunk_len, n * chunk_len)   with its row of q_succ
//   intra keys [n * chunk_len, p]                   with its row of q_intra
// in one softmax. chunk_len 0 means one segment without end: plain causal attention.
struct AttentionParams {
  // Inputs.
  const float* q_intra = nullptr;  // [T, Hq, D] rotated, temperature folded in
  const float* q_succ = nullptr;   // [T, Hq, D]; may be null if no row has p >= chunk_len
  const float* q_inter = nullptr;  // [T, Hq, D]; may be null if no row has p >= 2 * chunk_len
  int64_t num_rows = 0;            // T >= 0
  int64_t query_begin = 0;         // absolute position of row 0
  int32_t num_q_heads = 0;         // Hq, a multiple of Hkv; query head h uses KV head h / (Hq/Hkv)
  float softmax_scale = 0;         // 1 / sqrt(D), say; > 0
  int64_t chunk_len = 0;           // a multiple of kBlockTokens, or 0
  PagedKv kv;                      // holds tokens [0, query_begin + T)
  // Outputs.
  float* out = nullptr;  // [T, Hq, D]
  float* lse = nullptr;  // [T, Hq] natural log of the softmax's denominator, or null
};

// A row's bits depend on its query, its position and the cache only: not on T, not on query_begin,
// not on the number of threads. (They do depend on the instruction set that the machine offers.)
// kInvalidArgument for a size, pointer or block table outside the above; kUnimplemented for a
// head_dim other than 64 and 128 (the reference takes any).
KernelStatus AttentionCpu(const AttentionParams& p, Parallel& parallel);
KernelStatus AttentionRef(const AttentionParams& p);

}  // namespace longhaul::kernels
