#include "kernels/attention/decode_kernel.cuh"
#include "kernels/attention/paged_attention.h"
#include "kernels/attention/paged_attention_check.cuh"
#include "kernels/cuda/chained_launch.cuh"

namespace longhaul::kernels {
namespace {

constexpr int32_t kMaxGridY = 65'535;

template <int kHeadDim>
KernelStatus Launch(const PagedAttentionParams& p, const DecodeSplit* splits, int32_t num_splits,
                    const DecodeRow* rows, int32_t num_rows, void* workspace, DeviceStream stream) {
  using Traits = DecodeTraits<kHeadDim>;
  const int64_t partials = int64_t{num_splits} * p.num_q_heads;
  float* const sums = static_cast<float*>(workspace);
  const auto bf16 = [](const BFloat16* q) { return reinterpret_cast<const __nv_bfloat16*>(q); };
  const DecodeKernelParams kernel = {
      .q = {bf16(p.q_inter), bf16(p.q_succ), bf16(p.q_intra)},
      .block_tables = p.block_tables,
      .kv_base = p.kv_base,
      .block_stride_bytes = p.block_stride_bytes,
      .v_offset = p.layout.VOffset(0),
      .head_bytes = p.layout.HeadBytes(),
      .splits = splits,
      .partial_sums = sums,
      .partial_rows = reinterpret_cast<float2*>(sums + partials * kHeadDim),
      .out = reinterpret_cast<__nv_bfloat16*>(p.out),
      .lse = p.lse,
      .chunk_len = p.chunk_len,
      .num_q_heads = p.num_q_heads,
      .group = p.num_q_heads / p.layout.num_kv_heads,
      .softmax_scale = p.softmax_scale};
  constexpr int kSharedBytes = sizeof(DecodeShared<kHeadDim>);
  if (cudaFuncSetAttribute(DecodeSplitKernel<kHeadDim>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           kSharedBytes) != cudaSuccess) {
    return KernelStatus::kLibraryFailure;
  }
  const dim3 grid(num_splits, p.layout.num_kv_heads);
  const KernelStatus split = LaunchChained(&DecodeSplitKernel<kHeadDim>, grid, Traits::kThreads,
                                           kSharedBytes, stream, kernel);
  if (split != KernelStatus::kOk) return split;
  return LaunchChained(&DecodeMergeKernel<kHeadDim>, dim3(num_rows, p.num_q_heads), kHeadDim, 0,
                       stream, rows, kernel);
}

}  // namespace

int64_t DecodeWorkspaceBytes(const PagedAttentionParams& p, int32_t num_splits) {
  const int64_t floats = p.layout.head_dim + 2;  // sums; largest score and total
  return int64_t{num_splits} * p.num_q_heads * floats * static_cast<int64_t>(sizeof(float));
}

KernelStatus DecodeAttentionCuda(const PagedAttentionParams& p, const DecodeSplit* splits,
                                 int32_t num_splits, const DecodeRow* rows, int32_t num_rows,
                                 void* workspace, DeviceStream stream) {
  const KernelStatus valid = CheckPagedAttention(p);
  if (valid != KernelStatus::kOk) return valid;
  if (num_rows == 0) return KernelStatus::kOk;
  if (num_rows < 0 || num_splits < num_rows || workspace == nullptr) {
    return KernelStatus::kInvalidArgument;
  }
  if (p.num_q_heads / p.layout.num_kv_heads > 16 || p.num_q_heads > kMaxGridY) {
    return KernelStatus::kUnimplemented;
  }
  return p.layout.head_dim == 128
             ? Launch<128>(p, splits, num_splits, rows, num_rows, workspace, stream)
             : Launch<64>(p, splits, num_splits, rows, num_rows, workspace, stream);
}

}  // namespace longhaul::kernels
