#include <cuda.h>

#include <algorithm>

#include "kernels/attention/paged_attention.h"
#include "kernels/attention/paged_attention_check.cuh"
#include "kernels/attention/prefill_ampere_kernel.cuh"
#include "kernels/attention/prefill_hopper_kernel.cuh"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/tensor_map.cuh"

namespace longhaul::kernels {
namespace {

constexpr CUtensorMapDataType kBf16 = CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;

// Queries [T, Hq, D], read in boxes of `rows` of one head, 64 columns each.
KernelStatus MapQueries(const PagedAttentionParams& p, const BFloat16* q, uint32_t rows,
                        CUtensorMap* map) {
  const uint64_t head_dim = p.layout.head_dim;
  const uint64_t heads = p.num_q_heads;
  return MakeTensorMap(kBf16, q, {head_dim, heads, static_cast<uint64_t>(p.num_rows)},
                       {head_dim * 2, heads * head_dim * 2}, {64, 1, rows}, map);
}

// The cache [blocks, 2 Hkv, 256, D], read in boxes of `keys` of one head, 64 columns each.
KernelStatus MapCache(const PagedAttentionParams& p, uint32_t keys, CUtensorMap* map) {
  const uint64_t head_dim = p.layout.head_dim;
  const uint64_t heads = 2 * static_cast<uint64_t>(p.layout.num_kv_heads);
  return MakeTensorMap(kBf16, p.kv_base,
                       {head_dim, kBlockTokens, heads, static_cast<uint64_t>(p.num_blocks)},
                       {head_dim * 2, static_cast<uint64_t>(p.layout.HeadBytes()),
                        static_cast<uint64_t>(p.block_stride_bytes)},
                       {64, keys, 1, 1}, map);
}

template <int kHeadDim>
KernelStatus LaunchHopper(const PagedAttentionParams& p, const PrefillTile* tiles,
                          int32_t num_tiles, int multiprocessors, DeviceStream stream) {
  using Traits = PrefillTraits<kHeadDim>;
  PrefillKernelParams kernel = {.tiles = tiles,
                                .block_tables = p.block_tables,
                                .out = reinterpret_cast<__nv_bfloat16*>(p.out),
                                .lse = p.lse,
                                .chunk_len = p.chunk_len,
                                .num_items = num_tiles * p.num_q_heads,
                                .num_q_heads = p.num_q_heads,
                                .num_kv_heads = p.layout.num_kv_heads,
                                .softmax_scale = p.softmax_scale};
  // A region that no row has is never read.
  const BFloat16* const queries[] = {p.q_inter != nullptr ? p.q_inter : p.q_intra,
                                     p.q_succ != nullptr ? p.q_succ : p.q_intra, p.q_intra};
  for (int i = 0; i < 3; ++i) {
    const KernelStatus status = MapQueries(p, queries[i], Traits::kRows, &kernel.q[i]);
    if (status != KernelStatus::kOk) return status;
  }
  const KernelStatus status = MapCache(p, Traits::kKeys / Traits::kBlocks, &kernel.kv);
  if (status != KernelStatus::kOk) return status;
  constexpr int kSharedBytes = sizeof(PrefillShared<kHeadDim>);
  if (cudaFuncSetAttribute(PrefillHopperKernel<kHeadDim>,
                           cudaFuncAttributeMaxDynamicSharedMemorySize,
                           kSharedBytes) != cudaSuccess) {
    return KernelStatus::kLibraryFailure;
  }
  const int clusters = std::min(kernel.num_items, multiprocessors / Traits::kBlocks);
  const int grid = clusters * Traits::kBlocks;
  PrefillHopperKernel<kHeadDim><<<grid, Traits::kThreads, kSharedBytes, StreamOf(stream)>>>(kernel);
  return LaunchStatus();
}

template <int kHeadDim>
KernelStatus LaunchAmpere(const PagedAttentionParams& p, const PrefillTile* tiles,
                          int32_t num_tiles, DeviceStream stream) {
  const auto bf16 = [](const BFloat16* q) { return reinterpret_cast<const __nv_bfloat16*>(q); };
  const AmpereKernelParams kernel = {.q = {bf16(p.q_inter), bf16(p.q_succ), bf16(p.q_intra)},
                                     .tiles = tiles,
                                     .block_tables = p.block_tables,
                                     .kv_base = p.kv_base,
                                     .block_stride_bytes = p.block_stride_bytes,
                                     .v_offset = p.layout.VOffset(0),
                                     .head_bytes = p.layout.HeadBytes(),
                                     .out = reinterpret_cast<__nv_bfloat16*>(p.out),
                                     .lse = p.lse,
                                     .chunk_len = p.chunk_len,
                                     .num_q_heads = p.num_q_heads,
                                     .group = p.num_q_heads / p.layout.num_kv_heads,
                                     .softmax_scale = p.softmax_scale};
  constexpr int kSharedBytes = sizeof(AmpereShared<kHeadDim>);
  if (cudaFuncSetAttribute(PrefillAmpereKernel<kHeadDim>,
                           cudaFuncAttributeMaxDynamicSharedMemorySize,
                           kSharedBytes) != cudaSuccess) {
    return KernelStatus::kLibraryFailure;
  }
  PrefillAmpereKernel<kHeadDim>
      <<<AmpereTraits<kHeadDim>::kBlocks * num_tiles * p.num_q_heads,
         AmpereTraits<kHeadDim>::kThreads, kSharedBytes, StreamOf(stream)>>>(kernel);
  return LaunchStatus();
}

}  // namespace

KernelStatus PrefillAttentionCuda(const PagedAttentionParams& p, const PrefillTile* tiles,
                                  int32_t num_tiles, DeviceStream stream, AttentionPath path) {
  const KernelStatus valid = CheckPagedAttention(p);
  if (valid != KernelStatus::kOk) return valid;
  if (num_tiles < 0 || int64_t{num_tiles} * p.num_q_heads > INT32_MAX) {
    return KernelStatus::kInvalidArgument;
  }
  if (num_tiles == 0) return KernelStatus::kOk;
  DeviceFacts device;
  const KernelStatus facts = ReadDeviceFacts(&device);
  if (facts != KernelStatus::kOk) return facts;
  if (device.architecture < 80) return KernelStatus::kUnimplemented;
  const bool is_hopper = device.architecture == 90 && path == AttentionPath::kBest;
  if (p.layout.head_dim == 128) {
    return is_hopper ? LaunchHopper<128>(p, tiles, num_tiles, device.multiprocessors, stream)
                     : LaunchAmpere<128>(p, tiles, num_tiles, stream);
  }
  return is_hopper ? LaunchHopper<64>(p, tiles, num_tiles, device.multiprocessors, stream)
                   : LaunchAmpere<64>(p, tiles, num_tiles, stream);
}

}  // namespace longhaul::kernels
