#include <algorithm>

#include "kernels/attention/paged_attention.h"
#include "kernels/cuda/bfloat16_vector.cuh"
#include "kernels/cuda/chained_launch.cuh"
#include "kernels/rope/rope_qkv_paged.h"

namespace longhaul::kernels {
namespace {

constexpr int32_t kMaxThreads = 512;
constexpr int64_t kMaxGridRows = 0x7fffffff;
constexpr int32_t kMaxGridParts = 65535;
constexpr int32_t kVariants = 3;
static_assert(kBlockTokens % kPrefillTileKeys == 0, "a tile of keys lies in one block");

// Threads of a head: each has eight elements of its first half and their partners in the second.
constexpr int32_t HeadThreads(int32_t head_dim) { return head_dim / (2 * kVectorElements); }

// A row's angles. Thread i of a head wants elements [8i, 8i + 8): they lie as two quads, all first
// quads before all second ones, so that threads side by side read banks side by side.
template <int kHeadDim>
struct SharedAngles {
  static constexpr int32_t kQuads = kHeadDim / 2 / 4;  // of a row of a table

  float4 cos[kVariants][2][kQuads / 2];
  float4 sin[kVariants][2][kQuads / 2];

  // Called by all threads of the block; a quad each, in blocks of usual size.
  __device__ void Load(const RopeQkvPagedParams& p, int64_t row) {
    for (int32_t i = threadIdx.x; i < 2 * kVariants * kQuads; i += blockDim.x) {
      const int32_t variant = i / (2 * kQuads);
      const bool is_cos = i / kQuads % 2 == 0;
      const int32_t quad = i % kQuads;
      const RopeAngles& angles = variant == 0 ? p.intra : variant == 1 ? p.succ : p.inter;
      const float* table = is_cos ? angles.cos : angles.sin;
      if (table == nullptr) continue;
      (is_cos ? cos : sin)[variant][quad % 2][quad / 2] =
          __ldg(reinterpret_cast<const float4*>(table) + row * kQuads + quad);
    }
  }
};
static_assert(sizeof(SharedAngles<128>) == 1536);

// Writes the rotated part. The roundings are those of the CPU twin: each product, then their sum,
// so nothing may be fused.
template <int kHeadDim>
__device__ inline void StoreRotated(const float (&low)[kVectorElements],
                                    const float (&high)[kVectorElements],
                                    const SharedAngles<kHeadDim>& shared, int variant, int32_t lane,
                                    uint4* to) {
  float out_low[kVectorElements];
  float out_high[kVectorElements];
#pragma unroll
  for (int q = 0; q < 2; ++q) {
    const float4 cos4 = shared.cos[variant][q][lane];
    const float4 sin4 = shared.sin[variant][q][lane];
    const float cos[] = {cos4.x, cos4.y, cos4.z, cos4.w};
    const float sin[] = {sin4.x, sin4.y, sin4.z, sin4.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int e = 4 * q + i;
      out_low[e] = __fsub_rn(__fmul_rn(low[e], cos[i]), __fmul_rn(high[e], sin[i]));
      out_high[e] = __fadd_rn(__fmul_rn(high[e], cos[i]), __fmul_rn(low[e], sin[i]));
    }
  }
  to[0] = Pack(out_low);
  to[HeadThreads(kHeadDim)] = Pack(out_high);
}

// Grid: T x the parts of a row (one, up to 8,192 elements); block: a thread for every 16 elements,
// heads in the order q, k, v. A thread reads its elements once and writes all that is made of them.
// Roofline: bound by memory. A row is read once, (Hq + 2 Hkv) 2D bytes, and written once, with
// Hq 2D more for each further variant of q; tables are 4D bytes a variant. About 1.5 flops a byte.
template <int kHeadDim>
__global__ void __launch_bounds__(kMaxThreads) RopeQkvPagedKernel(const RopeQkvPagedParams p) {
  constexpr int32_t kThreads = HeadThreads(kHeadDim);
  static_assert(kHeadDim % (2 * kVectorElements) == 0, "halves are moved in whole vectors");
  static_assert(kMaxThreads % kThreads == 0, "a head is not cut");

  LetNextKernelStart();
  const int64_t row = blockIdx.x;
  const int32_t kv_heads = p.layout.num_kv_heads;
  const int32_t row_heads = p.num_q_heads + 2 * kv_heads;
  const int32_t lane = threadIdx.x % kThreads;
  const int32_t head = static_cast<int32_t>((blockIdx.y * blockDim.x + threadIdx.x) / kThreads);
  AwaitEarlierKernels();
  // All reads come before the barrier, so that they are awaited together. A thread's second vector
  // of a head lies kThreads behind its first.
  const uint4* from =
      reinterpret_cast<const uint4*>(p.qkv) + (row * row_heads + head) * 2 * kThreads + lane;
  uint4 packed_low = {};
  uint4 packed_high = {};
  if (head < row_heads) {
    packed_low = from[0];
    packed_high = from[kThreads];
  }
  const float scale = __ldg(p.query_scale + row);
  const int64_t slot = __ldg(p.slot + row);
  const int32_t num_empty = __ldg(p.num_empty + row);
  __shared__ SharedAngles<kHeadDim> angles;
  angles.Load(p, row);
  __syncthreads();  // the angles of all threads before any thread reads them
  if (head >= row_heads) return;

  float low[kVectorElements];
  float high[kVectorElements];
  Unpack(packed_low, low);
  Unpack(packed_high, high);
  if (head < p.num_q_heads) {
#pragma unroll
    for (int e = 0; e < kVectorElements; ++e) {
      low[e] = __fmul_rn(low[e], scale);
      high[e] = __fmul_rn(high[e], scale);
    }
    const int64_t to = (row * p.num_q_heads + head) * 2 * kThreads + lane;
    BFloat16* const out[kVariants] = {p.q_intra, p.q_succ, p.q_inter};
#pragma unroll
    for (int v = 0; v < kVariants; ++v) {
      if (out[v] == nullptr) continue;
      StoreRotated(low, high, angles, v, lane, reinterpret_cast<uint4*>(out[v]) + to);
    }
    return;
  }

  const int32_t token = static_cast<int32_t>(slot % kBlockTokens);
  uint8_t* block = p.kv_base + slot / kBlockTokens * p.block_stride_bytes;
  const int32_t within = token * 2 * kThreads + lane;
  const int32_t k_head = head - p.num_q_heads;
  if (k_head < kv_heads) {
    StoreRotated(low, high, angles, /*variant=*/0, lane,
                 reinterpret_cast<uint4*>(block + p.layout.KOffset(k_head)) + within);
    return;
  }
  uint4* v = reinterpret_cast<uint4*>(block + p.layout.VOffset(k_head - kv_heads)) + within;
  v[0] = packed_low;
  v[kThreads] = packed_high;
  // Never past the tile's end, whatever the count says: what lies there is not the row's.
  const int32_t empty = min(num_empty, kPrefillTileKeys - 1 - token % kPrefillTileKeys);
  for (int32_t i = 1; i <= empty; ++i) {
    v[2 * kThreads * i] = {};
    v[2 * kThreads * i + kThreads] = {};
  }
}

bool AnglesMatch(const RopeAngles& angles, const BFloat16* q) {
  if (!IsVectorAligned(angles.cos) || !IsVectorAligned(angles.sin) || !IsVectorAligned(q)) {
    return false;
  }
  const bool given = angles.cos != nullptr && angles.sin != nullptr;
  const bool absent = angles.cos == nullptr && angles.sin == nullptr;
  return q != nullptr ? given : absent;
}

bool Valid(const RopeQkvPagedParams& p) {
  const KvLayout& layout = p.layout;
  return p.num_rows >= 0 && p.num_rows <= kMaxGridRows && layout.num_kv_heads >= 1 &&
         p.num_q_heads >= 1 && p.num_q_heads % layout.num_kv_heads == 0 &&
         p.block_stride_bytes >= layout.BlockBytes() && p.block_stride_bytes % 16 == 0 &&
         IsVectorAligned(p.qkv) && IsVectorAligned(p.kv_base) && AnglesMatch(p.intra, p.q_intra) &&
         AnglesMatch(p.succ, p.q_succ) && AnglesMatch(p.inter, p.q_inter);
}

}  // namespace

KernelStatus RopeQkvPagedCuda(const RopeQkvPagedParams& p, DeviceStream stream) {
  if (!Valid(p)) return KernelStatus::kInvalidArgument;
  const int32_t head_dim = p.layout.head_dim;
  if ((head_dim != 64 && head_dim != 128) || p.layout.dtype != KvDtype::kBFloat16) {
    return KernelStatus::kUnimplemented;
  }
  if (p.num_rows == 0) return KernelStatus::kOk;
  if (p.qkv == nullptr || p.query_scale == nullptr || p.slot == nullptr || p.num_empty == nullptr ||
      p.q_intra == nullptr || p.kv_base == nullptr) {
    return KernelStatus::kInvalidArgument;
  }
  const int64_t row_threads =
      (int64_t{p.num_q_heads} + 2 * int64_t{p.layout.num_kv_heads}) * HeadThreads(head_dim);
  const int64_t parts = (row_threads + kMaxThreads - 1) / kMaxThreads;
  if (parts > kMaxGridParts) return KernelStatus::kUnimplemented;
  const int64_t threads = std::min<int64_t>((row_threads + 31) / 32 * 32, kMaxThreads);
  const dim3 grid(static_cast<uint32_t>(p.num_rows), static_cast<uint32_t>(parts));
  const auto kernel = head_dim == 64 ? &RopeQkvPagedKernel<64> : &RopeQkvPagedKernel<128>;
  return LaunchChained(kernel, grid, static_cast<uint32_t>(threads), 0, stream, p);
}

}  // namespace longhaul::kernels
