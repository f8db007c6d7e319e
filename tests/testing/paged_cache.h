#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "kernels/kv_cache/bfloat16.h"
#include "kernels/kv_cache/kv_layout.h"

namespace longhaul::testing {

// One layer's cache of one sequence: every byte starts as part of a NaN, blocks lie in random order
// with a gap between them.
class PagedCache {
 public:
  PagedCache(std::mt19937_64& random, const kernels::KvLayout& layout, int64_t num_tokens)
      : layout_(layout), stride_(layout.BlockBytes() + 64) {
    const int64_t num_blocks = (num_tokens + kernels::kBlockTokens - 1) / kernels::kBlockTokens;
    for (int64_t i = 0; i <= num_blocks; ++i) table_.push_back(static_cast<int32_t>(i));
    std::shuffle(table_.begin(), table_.end(), random);
    table_.pop_back();  // one block is nobody's
    size_ = (num_blocks + 1) * stride_;
    bytes_.reset(static_cast<uint8_t*>(std::aligned_alloc(64, size_)));
    std::fill_n(bytes_.get(), size_, uint8_t{0xff});
  }

  kernels::PagedKv View() const {
    return {.base = bytes_.get(),
            .block_stride_bytes = stride_,
            .block_table = table_.data(),
            .num_blocks = static_cast<int32_t>(table_.size()),
            .layout = layout_};
  }

  // k and v are [Hkv, D].
  void Write(int64_t token, const float* k, const float* v) {
    for (int64_t head = 0; head < layout_.num_kv_heads; ++head) {
      for (int64_t d = 0; d < layout_.head_dim; ++d) {
        Set(token, head, d, /*is_key=*/true, k[head * layout_.head_dim + d]);
        Set(token, head, d, /*is_key=*/false, v[head * layout_.head_dim + d]);
      }
    }
  }

  float Get(int64_t token, int64_t head, int64_t d, bool is_key) const {
    const uint8_t* element = Address(token, head, d, is_key);
    return layout_.dtype == kernels::KvDtype::kFloat32
               ? *reinterpret_cast<const float*>(element)
               : kernels::BFloat16ToFloat(*reinterpret_cast<const uint16_t*>(element));
  }

  std::vector<uint8_t> Bytes() const {
    return std::vector<uint8_t>(bytes_.get(), bytes_.get() + size_);
  }

 private:
  struct Free {
    void operator()(uint8_t* memory) const { std::free(memory); }
  };

  uint8_t* Address(int64_t token, int64_t head, int64_t d, bool is_key) const {
    const int64_t slot = token % 256;
    const int64_t dim = layout_.head_dim;
    const int64_t index = is_key ? (head * dim + d) * 256 + slot
                                 : ((layout_.num_kv_heads + head) * 256 + slot) * dim + d;
    return bytes_.get() + table_[token / 256] * stride_ +
           index * (layout_.dtype == kernels::KvDtype::kFloat32 ? 4 : 2);
  }

  void Set(int64_t token, int64_t head, int64_t d, bool is_key, float value) {
    uint8_t* element = Address(token, head, d, is_key);
    if (layout_.dtype == kernels::KvDtype::kFloat32) {
      *reinterpret_cast<float*>(element) = value;
    } else {
      *reinterpret_cast<uint16_t*>(element) = kernels::FloatToBFloat16(value);
    }
  }

  const kernels::KvLayout layout_;
  const int64_t stride_;
  int64_t size_ = 0;
  std::vector<int32_t> table_;
  std::unique_ptr<uint8_t, Free> bytes_;
};

}  // namespace longhaul::testing
