#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/device_stream.h"
#include "kernels/kv_cache/bfloat16.h"
#include "kernels/kv_cache/kv_layout.h"
#include "kernels/status.h"

namespace longhaul::kernels {

// Exact causal attention on a CUDA device, of rows of many sequences over one paged cache, with
// Dual Chunk Attention as attention.h defines it: all three regions in one softmax.
//
// Two launchers share the parameters: PrefillAttentionCuda for many rows of a sequence,
// DecodeAttentionCuda for one. Each takes a plan, made by a pure function on the host and copied to
// the device by the caller. A row's bits depend on its queries, its position and its cache only:
// not on the plan's other rows, nor on where its sequence was cut.
struct PagedAttentionParams {
  // Device memory.
  const BFloat16* q_intra = nullptr;  // [T, Hq, D] rotated, temperature folded in
  const BFloat16* q_succ = nullptr;   // [T, Hq, D]; may be null if no row has p >= chunk_len
  const BFloat16* q_inter = nullptr;  // [T, Hq, D]; may be null if no row has p >= 2 * chunk_len
  const int32_t* block_tables = nullptr;  // of all sequences, one behind the other
  uint8_t* kv_base = nullptr;             // this layer's part of block id 0; 128-byte aligned
  // Outputs, device memory.
  BFloat16* out = nullptr;  // [T, Hq, D]; rows outside the plan stay as they are
  float* lse = nullptr;     // [T, Hq] natural log of the softmax's denominator, or null
  // Sizes.
  int64_t num_rows = 0;            // T, of the matrices
  int64_t block_stride_bytes = 0;  // from block id to block id; a multiple of 16
  int32_t num_blocks = 0;          // of the cache: block ids are below it
  KvLayout layout;                 // bf16; K by token: [Hkv, 256, D]
  int32_t num_q_heads = 0;         // Hq, a multiple of Hkv
  float softmax_scale = 0;         // > 0
  int64_t chunk_len = 0;           // a multiple of kBlockTokens, or 0
};

// Consecutive rows of one sequence. Its cache holds tokens [0, position_begin + num_rows).
struct SequenceQueries {
  int64_t row_begin = 0;
  int64_t num_rows = 0;  // > 0
  int64_t position_begin = 0;
  int64_t table_begin = 0;  // its first entry in block_tables
};

// Prefill: queries are taken 256 at a time, cut at absolute multiples of 256, so that a tile lies
// in one segment; keys 128 at a time.
inline constexpr int32_t kPrefillTileRows = 256;
inline constexpr int32_t kPrefillTileKeys = 128;

struct PrefillTile {
  int64_t row_origin = 0;  // row of the tile's first position, below row_begin where cut off
  int64_t table_begin = 0;
  int32_t position = 0;  // of the tile's first row, a multiple of kPrefillTileRows
  int32_t begin = 0;     // rows [begin, end) of the tile are the sequence's
  int32_t end = 0;
};

// The tiles of all sequences, those with most keys first.
std::vector<PrefillTile> PlanPrefill(std::span<const SequenceQueries> sequences);

// The device's own kernel, or the one for every device since Ampere, whose bits differ: for tests.
enum class AttentionPath : uint8_t { kBest, kPortable };

// `tiles` is device memory. kUnimplemented for a head_dim other than 64 and 128 or a device older
// than sm_80. Needs a context on the current device.
KernelStatus PrefillAttentionCuda(const PagedAttentionParams& p, const PrefillTile* tiles,
                                  int32_t num_tiles, DeviceStream stream,
                                  AttentionPath path = AttentionPath::kBest);

// Decode: a row's keys are cut into splits of whole blocks, by its own length alone; a second pass
// merges what they give.
struct DecodeSplit {
  int64_t row = 0;
  int64_t table_begin = 0;
  int32_t position = 0;     // of the row's token: it sees keys [0, position]
  int32_t block_begin = 0;  // blocks [block_begin, block_end) of the sequence
  int32_t block_end = 0;
  int32_t partial = 0;  // its place in the workspace
};
struct DecodeRow {
  int64_t row = 0;
  int32_t partial_begin = 0;  // its splits' places
  int32_t num_partials = 0;
};
struct DecodePlan {
  std::vector<DecodeSplit> splits;  // longest first
  std::vector<DecodeRow> rows;
};

// `sequences` have one row each.
DecodePlan PlanDecode(std::span<const SequenceQueries> sequences);
// Scratch of DecodeAttentionCuda, device memory, 16-byte aligned.
int64_t DecodeWorkspaceBytes(const PagedAttentionParams& p, int32_t num_splits);

// `splits` and `rows` are a plan's, in device memory. Splits without blocks do nothing: with them
// plans of about the same size are launched alike. Hq / Hkv at most 16. Errors as above.
KernelStatus DecodeAttentionCuda(const PagedAttentionParams& p, const DecodeSplit* splits,
                                 int32_t num_splits, const DecodeRow* rows, int32_t num_rows,
                                 void* workspace, DeviceStream stream);

}  // namespace longhaul::kernels
