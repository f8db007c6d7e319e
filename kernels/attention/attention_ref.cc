#include <cmath>
#include <limits>
#include <vector>

#include "kernels/attention/attention.h"
#include "kernels/kv_cache/bfloat16.h"

namespace longhaul::kernels {
namespace {

// Element d of a token's key or value, read through the block table.
double Cached(const PagedKv& kv, int64_t token, int64_t head, int64_t d, bool is_key) {
  const uint8_t* block = kv.base + int64_t{kv.block_table[token / 256]} * kv.block_stride_bytes;
  const int64_t slot = token % 256;
  const int64_t heads = kv.layout.num_kv_heads;
  const int64_t dim = kv.layout.head_dim;
  const int64_t index =
      is_key ? (head * dim + d) * 256 + slot : ((heads + head) * 256 + slot) * dim + d;
  if (kv.layout.dtype == KvDtype::kFloat32) return reinterpret_cast<const float*>(block)[index];
  return BFloat16ToFloat(reinterpret_cast<const uint16_t*>(block)[index]);
}

// The row of the query variant that looks at `key` from `position`.
const float* Query(const AttentionParams& p, int64_t row, int64_t position, int64_t key) {
  const int64_t chunks_apart = p.chunk_len == 0 ? 0 : position / p.chunk_len - key / p.chunk_len;
  const float* variant = chunks_apart == 0 ? p.q_intra : chunks_apart == 1 ? p.q_succ : p.q_inter;
  return variant + row * p.num_q_heads * p.kv.layout.head_dim;
}

}  // namespace

KernelStatus AttentionRef(const AttentionParams& p) {
  const int64_t dim = p.kv.layout.head_dim;
  if (p.num_rows < 0 || p.kv.layout.num_kv_heads < 1 || dim < 1) {
    return KernelStatus::kInvalidArgument;
  }
  const int64_t group = p.num_q_heads / p.kv.layout.num_kv_heads;
  for (int64_t row = 0; row < p.num_rows; ++row) {
    const int64_t position = p.query_begin + row;
    for (int64_t head = 0; head < p.num_q_heads; ++head) {
      std::vector<double> score(position + 1);
      double max = -std::numeric_limits<double>::infinity();
      for (int64_t key = 0; key <= position; ++key) {
        const float* q = Query(p, row, position, key) + head * dim;
        double dot = 0;
        for (int64_t d = 0; d < dim; ++d) dot += q[d] * Cached(p.kv, key, head / group, d, true);
        score[key] = dot * p.softmax_scale;
        max = std::fmax(max, score[key]);
      }
      double sum = 0;
      std::vector<double> out(dim, 0.0);
      for (int64_t key = 0; key <= position; ++key) {
        const double weight = std::exp(score[key] - max);
        sum += weight;
        for (int64_t d = 0; d < dim; ++d) {
          out[d] += weight * Cached(p.kv, key, head / group, d, false);
        }
      }
      for (int64_t d = 0; d < dim; ++d) {
        p.out[(row * p.num_q_heads + head) * dim + d] = static_cast<float>(out[d] / sum);
      }
      if (p.lse != nullptr) {
        p.lse[row * p.num_q_heads + head] = static_cast<float>(max + std::log(sum));
      }
    }
  }
  return KernelStatus::kOk;
}

}  // namespace longhaul::kernels
