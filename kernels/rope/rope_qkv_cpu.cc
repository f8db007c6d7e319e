#include <algorithm>

#include "kernels/kv_cache/bfloat16.h"
#include "kernels/rope/rope_qkv.h"

namespace longhaul::kernels {
namespace {

constexpr int32_t kMaxHeadDim = 1024;

bool AnglesMatch(const RopeAngles& angles, const float* q) {
  const bool given = angles.cos != nullptr && angles.sin != nullptr;
  const bool absent = angles.cos == nullptr && angles.sin == nullptr;
  return q != nullptr ? given : absent;
}

bool Valid(const RopeQkvParams& p) {
  const KvLayout& layout = p.kv.layout;
  if (p.num_rows < 0 || p.position_begin < 0 || p.num_q_heads < 1 || layout.num_kv_heads < 1 ||
      p.num_q_heads % layout.num_kv_heads != 0) {
    return false;
  }
  if (layout.head_dim < 2 || layout.head_dim > kMaxHeadDim ||
      p.kv.block_stride_bytes < layout.BlockBytes() ||
      p.position_begin + p.num_rows > int64_t{p.kv.num_blocks} * kBlockTokens) {
    return false;
  }
  return p.q_intra != nullptr && AnglesMatch(p.intra, p.q_intra) && AnglesMatch(p.succ, p.q_succ) &&
         AnglesMatch(p.inter, p.q_inter);
}

// out = rotation of x by the row's angles; halves pair up.
void Rotate(const float* __restrict x, const float* __restrict cos, const float* __restrict sin,
            int32_t half, float* __restrict out) {
  for (int32_t i = 0; i < half; ++i) {
    out[i] = x[i] * cos[i] - x[half + i] * sin[i];
    out[half + i] = x[half + i] * cos[i] + x[i] * sin[i];
  }
}

void RotateQueries(const RopeQkvParams& p, int64_t t) {
  const int32_t head_dim = p.kv.layout.head_dim;
  const int32_t half = head_dim / 2;
  const int64_t row_size =
      (int64_t{p.num_q_heads} + 2 * int64_t{p.kv.layout.num_kv_heads}) * head_dim;
  const float* q = p.qkv + t * row_size;
  const float scale = p.query_scale != nullptr ? p.query_scale[t] : 1.0f;
  const struct {
    const RopeAngles& angles;
    float* out;
  } variants[] = {{p.intra, p.q_intra}, {p.succ, p.q_succ}, {p.inter, p.q_inter}};
  for (int32_t head = 0; head < p.num_q_heads; ++head) {
    float scaled[kMaxHeadDim];
    for (int32_t d = 0; d < head_dim; ++d) scaled[d] = q[head * head_dim + d] * scale;
    for (const auto& variant : variants) {
      if (variant.out == nullptr) continue;
      Rotate(scaled, variant.angles.cos + t * half, variant.angles.sin + t * half, half,
             variant.out + (t * p.num_q_heads + head) * head_dim);
    }
  }
}

inline void Store(float value, float* out) { *out = value; }
inline void Store(float value, uint16_t* out) { *out = FloatToBFloat16(value); }

// Writes the K and V of rows [begin, end), all of KV block `block_idx`. Element is the cache's
// type.
template <typename Element>
void WriteKv(const RopeQkvParams& p, int64_t begin, int64_t end, int64_t block_idx) {
  const KvLayout& layout = p.kv.layout;
  const int32_t head_dim = layout.head_dim;
  const int32_t half = head_dim / 2;
  const int64_t row_size = (int64_t{p.num_q_heads} + 2 * int64_t{layout.num_kv_heads}) * head_dim;
  uint8_t* block = p.kv.Block(block_idx);
  const int64_t first_token = p.position_begin - block_idx * kBlockTokens;  // of row 0, may be < 0
  for (int32_t head = 0; head < layout.num_kv_heads; ++head) {
    Element* k_out = reinterpret_cast<Element*>(block + layout.KOffset(head));
    Element* v_out = reinterpret_cast<Element*>(block + layout.VOffset(head));
    // Rows inside, so that the lines of the transposed K stay in the first-level cache.
    for (int64_t t = begin; t < end; ++t) {
      const float* k = p.qkv + t * row_size + int64_t{p.num_q_heads + head} * head_dim;
      const float* v = k + int64_t{layout.num_kv_heads} * head_dim;
      const int64_t token = first_token + t;
      float rotated[kMaxHeadDim];
      Rotate(k, p.intra.cos + t * half, p.intra.sin + t * half, half, rotated);
      for (int32_t d = 0; d < head_dim; ++d) {
        Store(rotated[d], &k_out[int64_t{d} * kBlockTokens + token]);
      }
      for (int32_t d = 0; d < head_dim; ++d) Store(v[d], &v_out[token * head_dim + d]);
    }
  }
}

}  // namespace

KernelStatus RopeQkvCpu(const RopeQkvParams& p, Parallel& parallel) {
  if (!Valid(p)) return KernelStatus::kInvalidArgument;
  if (p.kv.layout.head_dim % 2 != 0) return KernelStatus::kUnimplemented;
  if (p.num_rows == 0) return KernelStatus::kOk;
  // One task a KV block: no two tasks write the same line.
  const int64_t first_block = p.position_begin / kBlockTokens;
  const int64_t last_block = (p.position_begin + p.num_rows - 1) / kBlockTokens;
  parallel.Run(last_block - first_block + 1, [&](int64_t task) {
    const int64_t block_idx = first_block + task;
    const int64_t block_begin = block_idx * kBlockTokens - p.position_begin;
    const int64_t begin = std::max<int64_t>(block_begin, 0);
    const int64_t end = std::min(block_begin + kBlockTokens, p.num_rows);
    for (int64_t t = begin; t < end; ++t) RotateQueries(p, t);
    if (p.kv.layout.dtype == KvDtype::kFloat32) {
      WriteKv<float>(p, begin, end, block_idx);
    } else {
      WriteKv<uint16_t>(p, begin, end, block_idx);
    }
  });
  return KernelStatus::kOk;
}

}  // namespace longhaul::kernels
