#include "kernels/kv_cache/bfloat16.h"
#include "kernels/rope/rope_qkv.h"

namespace longhaul::kernels {
namespace {

// Element d of a head's vector x after rotation by angles of row t.
double Rotated(const float* x, double scale, const RopeAngles& angles, int64_t t, int32_t head_dim,
               int32_t d) {
  const int32_t half = head_dim / 2;
  const int32_t i = d % half;
  const double cos = angles.cos[t * half + i];
  const double sin = angles.sin[t * half + i];
  const double partner = d < half ? -double{x[d + half]} : double{x[d - half]};
  return scale * (double{x[d]} * cos + partner * sin);
}

void StoreKv(const PagedKv& kv, int64_t token, int32_t head, int32_t d, bool is_key, double value) {
  uint8_t* block = kv.base + int64_t{kv.block_table[token / 256]} * kv.block_stride_bytes;
  const int64_t slot = token % 256;
  const int64_t heads = kv.layout.num_kv_heads;
  const int64_t dim = kv.layout.head_dim;
  const int64_t index =
      is_key ? (head * dim + d) * 256 + slot : ((heads + head) * 256 + slot) * dim + d;
  const float rounded = static_cast<float>(value);
  if (kv.layout.dtype == KvDtype::kFloat32) {
    reinterpret_cast<float*>(block)[index] = rounded;
  } else {
    reinterpret_cast<uint16_t*>(block)[index] = FloatToBFloat16(rounded);
  }
}

}  // namespace

KernelStatus RopeQkvRef(const RopeQkvParams& p) {
  const int32_t head_dim = p.kv.layout.head_dim;
  const int32_t kv_heads = p.kv.layout.num_kv_heads;
  if (p.num_rows < 0 || kv_heads < 1 || head_dim < 2) return KernelStatus::kInvalidArgument;
  const int64_t row_heads = p.num_q_heads + 2 * kv_heads;
  for (int64_t t = 0; t < p.num_rows; ++t) {
    const double scale = p.query_scale == nullptr ? 1.0 : p.query_scale[t];
    for (int32_t head = 0; head < row_heads; ++head) {
      const float* x = p.qkv + (t * row_heads + head) * head_dim;
      for (int32_t d = 0; d < head_dim; ++d) {
        if (head < p.num_q_heads) {
          const int64_t index = (t * p.num_q_heads + head) * head_dim + d;
          p.q_intra[index] = static_cast<float>(Rotated(x, scale, p.intra, t, head_dim, d));
          if (p.q_succ != nullptr) {
            p.q_succ[index] = static_cast<float>(Rotated(x, scale, p.succ, t, head_dim, d));
          }
          if (p.q_inter != nullptr) {
            p.q_inter[index] = static_cast<float>(Rotated(x, scale, p.inter, t, head_dim, d));
          }
        } else if (head < p.num_q_heads + kv_heads) {
          StoreKv(p.kv, p.position_begin + t, head - p.num_q_heads, d, /*is_key=*/true,
                  Rotated(x, 1.0, p.intra, t, head_dim, d));
        } else {
          StoreKv(p.kv, p.position_begin + t, head - p.num_q_heads - kv_heads, d,
                  /*is_key=*/false, x[d]);
        }
      }
    }
  }
  return KernelStatus::kOk;
}

}  // namespace longhaul::kernels
