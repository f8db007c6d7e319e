#pragma once

#include <cstdint>

#include "kernels/attention/attention_tile.h"

// The body of an attention tile, compiled once for each instruction set. `Isa` is a type of the
// including file's unnamed namespace (so that no two files share an instantiation) with
//   Vec, kWidth (floats in it), kVecs (vectors a micro-kernel holds per row), Zero, Set1, Load of
//   float and of bf16, Store, MulAdd, Add, Sub, Mul, Max, Exp2, HorizontalMax, HorizontalSum.
//
// Who computes what: a tile's rows are taken kMicroRows at a time (row group). For each KV block in
// ascending order, a row group computes its scores (outer products over d: K is stored transposed),
// updates its softmax, and adds P V to its rows of the output. Work per score: 4 D flops; K and V
// are read from the second-level cache once per row group: 2 D * 4 bytes for kMicroRows * 4 D flops
// a key.
//
// Bits: every sum runs over d, over keys or over blocks in ascending order with one FMA a term,
// whatever the number of rows in the group; keys that a row does not see add exact zeros.

namespace longhaul::kernels {
namespace attention_tile {

inline constexpr int32_t kMicroRows = 6;

// s[r][key] = sum over d of q[r][d] * k[d][key], for keys [0, width).
template <typename Isa, int kHeadDim, int kRows, typename Element>
inline void Scores(const float* const* q, const Element* k, int32_t width, float* s) {
  using Vec = typename Isa::Vec;
  constexpr int kPanel = Isa::kVecs * Isa::kWidth;
  for (int32_t panel = 0; panel < width; panel += kPanel) {
    Vec acc[kRows][Isa::kVecs];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < Isa::kVecs; ++v) acc[r][v] = Isa::Zero();
    }
    const Element* column = k + panel;
    for (int64_t d = 0; d < kHeadDim; ++d) {
      Vec key[Isa::kVecs];
#pragma GCC unroll 8
      for (int v = 0; v < Isa::kVecs; ++v) {
        key[v] = Isa::Load(column + d * kBlockTokens + v * Isa::kWidth);
      }
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const Vec query = Isa::Set1(q[r][d]);
#pragma GCC unroll 8
        for (int v = 0; v < Isa::kVecs; ++v) acc[r][v] = Isa::MulAdd(query, key[v], acc[r][v]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < Isa::kVecs; ++v) {
        Isa::Store(s + r * int64_t{kBlockTokens} + panel + v * Isa::kWidth, acc[r][v]);
      }
    }
  }
}

// out[r] = out[r] * alpha[r] + sum over keys [0, num_keys) of s[r][key] * v[key].
template <typename Isa, int kHeadDim, int kRows, typename Element>
inline void AddWeighted(const float* s, const float* alpha, const Element* value, int32_t num_keys,
                        float* const* out) {
  using Vec = typename Isa::Vec;
  constexpr int kPanel = Isa::kVecs * Isa::kWidth;
  static_assert(kHeadDim % kPanel == 0, "a head must be whole panels");
  for (int panel = 0; panel < kHeadDim; panel += kPanel) {
    Vec acc[kRows][Isa::kVecs];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < Isa::kVecs; ++v) {
        acc[r][v] = Isa::Mul(Isa::Load(out[r] + panel + v * Isa::kWidth), Isa::Set1(alpha[r]));
      }
    }
    const Element* row = value + panel;
    for (int64_t key = 0; key < num_keys; ++key) {
      Vec element[Isa::kVecs];
#pragma GCC unroll 8
      for (int v = 0; v < Isa::kVecs; ++v) {
        element[v] = Isa::Load(row + key * kHeadDim + v * Isa::kWidth);
      }
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const Vec weight = Isa::Set1(s[r * int64_t{kBlockTokens} + key]);
#pragma GCC unroll 8
        for (int v = 0; v < Isa::kVecs; ++v) {
          acc[r][v] = Isa::MulAdd(weight, element[v], acc[r][v]);
        }
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < Isa::kVecs; ++v) {
        Isa::Store(out[r] + panel + v * Isa::kWidth, acc[r][v]);
      }
    }
  }
}

// Turns one row's scores [0, width) into weights in place and returns the factor that what the row
// has summed up so far must be multiplied with.
template <typename Isa>
inline float UpdateSoftmax(float* s, int32_t width, float log2_scale, float* row_max,
                           float* row_sum) {
  using Vec = typename Isa::Vec;
  Vec max = Isa::Set1(*row_max);
  for (int32_t i = 0; i < width; i += Isa::kWidth) max = Isa::Max(max, Isa::Load(s + i));
  const float new_max = Isa::HorizontalMax(max);
  const Vec max_all = Isa::Set1(new_max);
  const Vec scale = Isa::Set1(log2_scale);
  Vec sum = Isa::Zero();
  for (int32_t i = 0; i < width; i += Isa::kWidth) {
    const Vec weight = Isa::Exp2(Isa::Mul(Isa::Sub(Isa::Load(s + i), max_all), scale));
    Isa::Store(s + i, weight);
    sum = Isa::Add(sum, weight);
  }
  const Vec old_max = Isa::Set1(*row_max);
  const float alpha = Isa::First(Isa::Exp2(Isa::Mul(Isa::Sub(old_max, max_all), scale)));
  *row_sum = *row_sum * alpha + Isa::HorizontalSum(sum);
  *row_max = new_max;
  return alpha;
}

// Rows [row, row + kRows) of the tile against one KV block. `first_key` is the block's first token.
template <typename Isa, int kHeadDim, int kRows, typename Element>
void RowGroup(const AttentionTile& tile, const float* q, const Element* k, const Element* v,
              int64_t first_key, int32_t row) {
  constexpr int32_t kPanel = Isa::kVecs * Isa::kWidth;
  static_assert(kBlockTokens % kPanel == 0, "a KV block must be whole panels");
  alignas(64) float s[kRows * kBlockTokens];
  const float* q_row[kRows];
  float* out_row[kRows];
  int32_t valid[kRows];  // keys of the block that the row sees; ascending in the row
  for (int r = 0; r < kRows; ++r) {
    const int32_t query = (row + r) / tile.group;
    const int64_t offset = query * tile.query_stride + (row + r) % tile.group * int64_t{kHeadDim};
    q_row[r] = q + offset;
    out_row[r] = tile.out + offset;
    const int64_t seen = tile.position + query + 1 - first_key;
    valid[r] = seen < kBlockTokens ? static_cast<int32_t>(seen) : kBlockTokens;
  }
  const int32_t num_keys = valid[kRows - 1];
  const int32_t width = (num_keys + kPanel - 1) / kPanel * kPanel;
  Scores<Isa, kHeadDim, kRows>(q_row, k, width, s);
  float alpha[kRows];
  for (int r = 0; r < kRows; ++r) {
    // Also over what the cache holds past the last token: no arithmetic has touched it but its own.
    for (int32_t i = valid[r]; i < width; ++i) s[r * kBlockTokens + i] = -__builtin_inff();
    alpha[r] = UpdateSoftmax<Isa>(s + r * kBlockTokens, width, tile.log2_scale,
                                  tile.row_max + row + r, tile.row_sum + row + r);
  }
  AddWeighted<Isa, kHeadDim, kRows>(s, alpha, v, num_keys, out_row);
}

template <typename Isa, int kHeadDim, typename Element>
void Run(const AttentionTile& tile) {
  const int32_t num_rows = tile.num_queries * tile.group;
  for (int32_t row = 0; row < num_rows; ++row) {
    tile.row_max[row] = -__builtin_inff();
    tile.row_sum[row] = 0;
    float* out =
        tile.out + row / tile.group * tile.query_stride + row % tile.group * int64_t{kHeadDim};
    for (int d = 0; d < kHeadDim; ++d) out[d] = 0;
  }
  for (int64_t block = 0; block <= tile.last_block; ++block) {
    const float* q = block < tile.succ_block    ? tile.q_inter
                     : block < tile.intra_block ? tile.q_succ
                                                : tile.q_intra;
    const int64_t offset = tile.block_table[block] * tile.block_stride_bytes;
    const Element* k = reinterpret_cast<const Element*>(tile.k_base + offset);
    const Element* v = reinterpret_cast<const Element*>(tile.v_base + offset);
    const int64_t first_key = block * kBlockTokens;
    int32_t row = 0;
    for (; row + kMicroRows <= num_rows; row += kMicroRows) {
      RowGroup<Isa, kHeadDim, kMicroRows>(tile, q, k, v, first_key, row);
    }
    switch (num_rows - row) {
      case 5:
        RowGroup<Isa, kHeadDim, 5>(tile, q, k, v, first_key, row);
        break;
      case 4:
        RowGroup<Isa, kHeadDim, 4>(tile, q, k, v, first_key, row);
        break;
      case 3:
        RowGroup<Isa, kHeadDim, 3>(tile, q, k, v, first_key, row);
        break;
      case 2:
        RowGroup<Isa, kHeadDim, 2>(tile, q, k, v, first_key, row);
        break;
      case 1:
        RowGroup<Isa, kHeadDim, 1>(tile, q, k, v, first_key, row);
        break;
      default:
        break;
    }
  }
  for (int32_t row = 0; row < num_rows; ++row) {
    float* out =
        tile.out + row / tile.group * tile.query_stride + row % tile.group * int64_t{kHeadDim};
    // + 0 makes a zero positive: the sign of an underflowed sum may hang on the row group.
    for (int d = 0; d < kHeadDim; ++d) out[d] = out[d] / tile.row_sum[row] + 0.0f;
  }
}

// Runtime values to template arguments, once for all instruction sets.
template <typename Isa>
AttentionTileFunction Select(int32_t head_dim, KvDtype dtype) {
  const bool fp32 = dtype == KvDtype::kFloat32;
  switch (head_dim) {
    case 64:
      return fp32 ? &Run<Isa, 64, float> : &Run<Isa, 64, uint16_t>;
    case 128:
      return fp32 ? &Run<Isa, 128, float> : &Run<Isa, 128, uint16_t>;
    default:
      return nullptr;
  }
}

// 2^f on [-0.5, 0.5] as 1 + f * (c0 + f * (c1 + ...)): Chebyshev interpolation, 0.85 ulp with FMA.
inline constexpr float kExp2Poly[] = {0x1.62e430p-1f, 0x1.ebfbe0p-3f,  0x1.c6af6cp-5f,
                                      0x1.3b2a54p-7f, 0x1.5f0890p-10f, 0x1.44138ap-13f};
// Below it 2^x is taken as 0: nothing denormal is made, which some machines are slow with.
inline constexpr float kExp2Min = -125.0f;

}  // namespace attention_tile
}  // namespace longhaul::kernels
