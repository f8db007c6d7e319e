#pragma once

#include <cstdint>

#include "kernels/device_stream.h"
#include "kernels/kv_cache/bfloat16.h"
#include "kernels/kv_cache/kv_layout.h"
#include "kernels/rope/rope_qkv.h"
#include "kernels/status.h"

namespace longhaul::kernels {

// RopeQkv on a CUDA device, for rows of many sequences that share one paged cache: each row says
// where its token lies.
struct RopeQkvPagedParams {
  // Inputs, device memory.
  const BFloat16* qkv = nullptr;       // [T, (Hq + 2 Hkv) * D], bias added
  const float* query_scale = nullptr;  // [T] temperature f^2 of each row's queries
  RopeAngles intra;                    // [T, D/2] each, for q_intra and for K
  RopeAngles succ;                     // null exactly if q_succ is
  RopeAngles inter;                    // null exactly if q_inter is
  const int64_t* slot = nullptr;       // [T] block id * 256 + token within the block
  // [T] tokens behind the row's own, in the same 128, that the sequence does not have yet and whose
  // V becomes zero: attention multiplies what lies there by zero, so it must be finite.
  const int32_t* num_empty = nullptr;
  // Outputs, device memory.
  BFloat16* q_intra = nullptr;  // [T, Hq, D], times query_scale
  BFloat16* q_succ = nullptr;   // or null
  BFloat16* q_inter = nullptr;  // or null
  uint8_t* kv_base = nullptr;   // this layer's part of block id 0
  // Sizes.
  int64_t num_rows = 0;            // T >= 0
  int64_t block_stride_bytes = 0;  // from block id to block id
  int32_t num_q_heads = 0;         // Hq, a multiple of layout.num_kv_heads
  KvLayout layout;                 // bf16; K by token: [Hkv, 256, D]
};

// q is scaled and rotated in fp32 (as RopeQkvCpu does), then rounded once; so is K. A row's bits
// depend on that row alone. kInvalidArgument for sizes outside the above, kUnimplemented if D is
// not 64 or 128.
KernelStatus RopeQkvPagedCuda(const RopeQkvPagedParams& p, DeviceStream stream);

}  // namespace longhaul::kernels
