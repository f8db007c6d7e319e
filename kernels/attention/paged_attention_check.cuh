#pragma once

#include "kernels/attention/paged_attention.h"

namespace longhaul::kernels {

// What both launchers ask of their sizes and pointers.
inline KernelStatus CheckPagedAttention(const PagedAttentionParams& p) {
  const KvLayout& layout = p.layout;
  if (p.q_intra == nullptr || p.block_tables == nullptr || p.kv_base == nullptr ||
      p.out == nullptr || p.num_rows < 1 || p.num_blocks < 1 || p.num_q_heads < 1 ||
      layout.num_kv_heads < 1 || p.num_q_heads % layout.num_kv_heads != 0) {
    return KernelStatus::kInvalidArgument;
  }
  if (p.block_stride_bytes < layout.BlockBytes() || p.block_stride_bytes % 16 != 0 ||
      !(p.softmax_scale > 0) || p.chunk_len < 0 || p.chunk_len % kBlockTokens != 0) {
    return KernelStatus::kInvalidArgument;
  }
  const bool supported =
      (layout.head_dim == 64 || layout.head_dim == 128) && layout.dtype == KvDtype::kBFloat16;
  return supported ? KernelStatus::kOk : KernelStatus::kUnimplemented;
}

}  // namespace longhaul::kernels
