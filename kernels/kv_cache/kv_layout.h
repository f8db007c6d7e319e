#pragma once

#include <cstdint>

namespace longhaul::kernels {

// Tokens in a KV block, the page of the cache. A multiple of every tile's key count; divides every
// segment, so that a block lies in one DCA region of a query.
inline constexpr int32_t kBlockTokens = 256;

enum class KvDtype : uint8_t { kFloat32 = 0, kBFloat16 = 1 };

// How one layer's KV block lies in memory:
//   K       [Hkv, D, 256]  on the CPU: transposed, so that scores are an outer product over d
//   without
//                          packing; on CUDA devices by token, [Hkv, 256, D], like V
//   V       [Hkv, 256, D]
//   scales  [2, Hkv, 256]  2 bytes each, K's then V's: unused by fp32 and bf16, kept so that an
//                          8-bit type (one scale per head and token) changes no address
// Token t of the sequence is column (the CPU's K) or row t % 256 of block block_table[t / 256].
struct KvLayout {
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;
  KvDtype dtype = KvDtype::kFloat32;

  constexpr int64_t ElementBytes() const { return dtype == KvDtype::kFloat32 ? 4 : 2; }
  // Bytes of one head's K (or V) in a block.
  constexpr int64_t HeadBytes() const { return int64_t{head_dim} * kBlockTokens * ElementBytes(); }
  // Offsets in bytes from the start of a layer's block.
  constexpr int64_t KOffset(int32_t kv_head) const { return kv_head * HeadBytes(); }
  constexpr int64_t VOffset(int32_t kv_head) const {
    return (int64_t{num_kv_heads} + kv_head) * HeadBytes();
  }
  constexpr int64_t ScaleOffset() const { return 2 * int64_t{num_kv_heads} * HeadBytes(); }
  constexpr int64_t ScaleBytes() const { return int64_t{2} * 2 * num_kv_heads * kBlockTokens; }
  // Bytes of one layer's block; a multiple of 64 when head_dim is even.
  constexpr int64_t BlockBytes() const { return ScaleOffset() + ScaleBytes(); }
};

// One sequence's keys and values in one layer. A view: owns nothing.
struct PagedKv {
  uint8_t* base = nullptr;               // this layer's part of block id 0; 64-byte aligned
  int64_t block_stride_bytes = 0;        // from block id to block id, >= layout.BlockBytes()
  const int32_t* block_table = nullptr;  // [num_blocks] ids, each >= 0
  int32_t num_blocks = 0;                // entries of block_table
  KvLayout layout;

  // Start of the block that holds tokens [256 * index, 256 * (index + 1)) of the sequence.
  uint8_t* Block(int64_t index) const { return base + block_table[index] * block_stride_bytes; }
};

}  // namespace longhaul::kernels
