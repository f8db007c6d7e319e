#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/attention/paged_attention.h"
#include "kernels/kv_cache/bfloat16.h"
#include "kernels/kv_cache/kv_layout.h"
#include "tests/testing/cuda_testing.h"

namespace longhaul::testing {

// One layer's cache of several sequences on a CUDA device: bf16, blocks in random order with gaps
// between them, every byte part of a NaN but what Write has written and V of the rest of a tile,
// which RopeQkvPagedCuda sets to zero.
class DeviceCache {
 public:
  // `num_tokens` of each sequence.
  DeviceCache(std::mt19937_64& random, int32_t num_kv_heads, int32_t head_dim,
              const std::vector<int64_t>& num_tokens)
      : layout_{.num_kv_heads = num_kv_heads,
                .head_dim = head_dim,
                .dtype = kernels::KvDtype::kBFloat16},
        stride_(layout_.BlockBytes() + 256) {
    int32_t blocks = 1;  // one is nobody's
    for (const int64_t tokens : num_tokens) {
      table_begin_.push_back(blocks - 1);
      blocks += static_cast<int32_t>((tokens + kernels::kBlockTokens - 1) / kernels::kBlockTokens);
    }
    tables_.resize(blocks);
    std::iota(tables_.begin(), tables_.end(), 0);
    std::shuffle(tables_.begin(), tables_.end(), random);
    num_blocks_ = blocks;
    tables_.pop_back();
    bytes_.assign(blocks * stride_, 0xff);
    for (size_t i = 0; i < num_tokens.size(); ++i) {
      for (int64_t token = num_tokens[i]; token % kernels::kPrefillTileKeys != 0; ++token) {
        for (int64_t head = 0; head < num_kv_heads; ++head) {
          std::memset(Row(i, token, num_kv_heads + head), 0, head_dim * 2);
        }
      }
    }
  }

  // k and v are [Hkv, D].
  void Write(int64_t sequence, int64_t token, const float* k, const float* v) {
    for (int64_t head = 0; head < layout_.num_kv_heads; ++head) {
      for (int64_t d = 0; d < layout_.head_dim; ++d) {
        const int64_t i = head * layout_.head_dim + d;
        Row(sequence, token, head)[d] = kernels::FloatToBFloat16(k[i]);
        Row(sequence, token, layout_.num_kv_heads + head)[d] = kernels::FloatToBFloat16(v[i]);
      }
    }
  }

  const kernels::KvLayout& layout() const { return layout_; }
  int64_t stride() const { return stride_; }
  int32_t num_blocks() const { return num_blocks_; }
  const std::vector<int32_t>& tables() const { return tables_; }
  int64_t table_begin(int64_t sequence) const { return table_begin_[sequence]; }
  const std::vector<uint8_t>& bytes() const { return bytes_; }

 private:
  // `head` counts K's heads, then V's.
  uint16_t* Row(int64_t sequence, int64_t token, int64_t head) {
    const int32_t block = tables_[table_begin_[sequence] + token / kernels::kBlockTokens];
    return reinterpret_cast<uint16_t*>(
        &bytes_[block * stride_ + head * layout_.HeadBytes() +
                token % kernels::kBlockTokens * layout_.head_dim * 2]);
  }

  const kernels::KvLayout layout_;
  const int64_t stride_;
  int32_t num_blocks_ = 0;
  std::vector<int64_t> table_begin_;
  std::vector<int32_t> tables_;
  std::vector<uint8_t> bytes_;
};

}  // namespace longhaul::testing
