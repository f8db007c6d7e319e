#pragma once

#include <cstdint>

#include "kernels/kv_cache/kv_layout.h"
#include "kernels/parallel.h"
#include "kernels/status.h"

namespace longhaul::kernels {

// A table made by RopeTable, or both null.
struct RopeAngles {
  const float* cos = nullptr;  // [T, D/2]
  const float* sin = nullptr;  // [T, D/2]
};

// Rotates the queries and keys of consecutive tokens of ONE sequence and writes K, V to its cache.
// Halves are rotated as in GPT-NeoX: element i pairs with i + D/2.
struct RopeQkvParams {
  // Inputs.
  const float* qkv = nullptr;          // [T, (Hq + 2 Hkv) * D]: q, k, v of each row, bias added
  int64_t num_rows = 0;                // T >= 0
  int64_t position_begin = 0;          // absolute position of row 0: where K and V are stored
  int32_t num_q_heads = 0;             // Hq, a multiple of kv.layout.num_kv_heads
  const float* query_scale = nullptr;  // [T] temperature f^2 of each row's queries; null = 1
  RopeAngles intra;                    // for q_intra and for K
  RopeAngles succ;                     // null exactly if q_succ is
  RopeAngles inter;                    // null exactly if q_inter is
  // Outputs.
  float* q_intra = nullptr;  // [T, Hq, D], times query_scale
  float* q_succ = nullptr;   // [T, Hq, D], times query_scale; null if no row has p >= chunk_len
  float* q_inter = nullptr;  // [T, Hq, D], times query_scale; null if no row has p >= 2 chunk_len
  PagedKv kv;                // rotated K (never scaled) and V at [position_begin, + T)
};

// q is scaled in fp32, then rotated in fp32 with the roundings of the published code (each product,
// then their sum); K and V are rounded once to the cache's type. Other tokens of the cache stay
// untouched. A row's bits do not depend on T or on the number of threads.
// kInvalidArgument if a size or the block table is too small; kUnimplemented if D is odd.
KernelStatus RopeQkvCpu(const RopeQkvParams& p, Parallel& parallel);
KernelStatus RopeQkvRef(const RopeQkvParams& p);

}  // namespace longhaul::kernels
