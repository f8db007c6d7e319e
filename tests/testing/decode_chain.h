#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <vector>

#include "kernels/attention/paged_attention.h"
#include "kernels/device_stream.h"
#include "kernels/fused/rms_norm.h"
#include "kernels/fused/silu_mul.h"
#include "kernels/gemm/gemm_cuda.h"
#include "kernels/gemm/gemv_cuda.h"
#include "kernels/kv_cache/kv_layout.h"
#include "kernels/rope/rope_qkv_paged.h"

namespace longhaul::testing {

struct DecodeShape {
  int32_t num_layers = 0;
  int32_t hidden = 0;
  int32_t intermediate = 0;
  int32_t num_q_heads = 0;
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;
  int64_t vocab_size = 0;
  int32_t num_rows = 1;    // one token of so many sequences
  int64_t num_tokens = 1;  // of each sequence, the new one included
};

// Device memory that outlives a chain.
struct DecodeMemory {
  // Full of finite numbers of size 1 or so, read as bf16 or as fp32.
  std::function<void*(int64_t bytes)> take;
  std::function<void*(const void* host, int64_t bytes)> take_with;
};

// The kernels of a decode step of the whole model, one behind the other, as CudaBackend launches
// them. All layers have weights and caches of their own.
class DecodeChain {
 public:
  // `gemm` is for more than kMaxGemvRows rows, and null otherwise.
  DecodeChain(const DecodeShape& shape, const DecodeMemory& memory, kernels::GemmCuda* gemm)
      : shape_(shape), memory_(memory), gemm_(gemm) {
    hidden_ = Matrix(shape.num_rows, shape.hidden);
    norm_ = Matrix(shape.num_rows, shape.hidden);
    logits_ = Take<float>(shape.num_rows * shape.vocab_size);
    Plan();
    for (int32_t layer = 0; layer < shape.num_layers; ++layer) layers_.push_back(MakeLayer());
    final_norm_ = Norm();
    head_ = Product(norm_, shape.vocab_size, shape.hidden);
    head_.y_fp32 = logits_;
  }

  kernels::KernelStatus Launch(kernels::DeviceStream stream) const {
    for (const Layer& layer : layers_) {
      const kernels::KernelStatus steps[] = {
          RmsNormCuda(layer.input_norm, stream),
          Multiply(layer.qkv, stream),
          RopeQkvPagedCuda(layer.rope, stream),
          DecodeAttentionCuda(layer.attention, splits_, num_splits_, rows_, shape_.num_rows,
                              workspace_, stream),
          Multiply(layer.out, stream),
          RmsNormCuda(layer.post_attention_norm, stream),
          gemm_ == nullptr ? GatedGemvCuda(layer.gate_up, stream) : Multiply(layer.gate_up, stream),
          gemm_ == nullptr ? kernels::KernelStatus::kOk : SiluMulCuda(layer.silu_mul, stream),
          Multiply(layer.down, stream)};
      for (const kernels::KernelStatus status : steps) {
        if (status != kernels::KernelStatus::kOk) return status;
      }
    }
    const kernels::KernelStatus normed = RmsNormCuda(final_norm_, stream);
    return normed != kernels::KernelStatus::kOk ? normed : Multiply(head_, stream);
  }

  const DecodeShape& shape() const { return shape_; }
  // The residual stream, [rows, hidden]: what a step begins with, and is left of it.
  kernels::BFloat16* hidden() const { return hidden_; }
  float* logits() const { return logits_; }  // [rows, vocab]
  // Bytes that a step reads of weights.
  int64_t weight_bytes() const { return weight_bytes_; }

 private:
  struct Layer {
    kernels::RmsNormParams<kernels::BFloat16> input_norm, post_attention_norm;
    kernels::GemmCudaParams qkv, out, gate_up, down;
    kernels::RopeQkvPagedParams rope;
    kernels::PagedAttentionParams attention;
    kernels::SiluMulParams<kernels::BFloat16> silu_mul;
  };

  kernels::KernelStatus Multiply(const kernels::GemmCudaParams& p,
                                 kernels::DeviceStream stream) const {
    return gemm_ == nullptr ? GemvCuda(p, stream) : gemm_->Run(p, stream);
  }

  template <typename T>
  T* Take(int64_t count) {
    return static_cast<T*>(memory_.take(count * static_cast<int64_t>(sizeof(T))));
  }
  template <typename T>
  T* TakeWith(const std::vector<T>& values) {
    return static_cast<T*>(
        memory_.take_with(values.data(), static_cast<int64_t>(values.size() * sizeof(T))));
  }
  kernels::BFloat16* Matrix(int64_t rows, int64_t cols) {
    return Take<kernels::BFloat16>(rows * cols);
  }

  kernels::KvLayout Layout() const {
    return {.num_kv_heads = shape_.num_kv_heads,
            .head_dim = shape_.head_dim,
            .dtype = kernels::KvDtype::kBFloat16};
  }

  // Where each sequence's tokens are, and how attention is cut.
  void Plan() {
    const auto tokens = static_cast<int64_t>(shape_.num_tokens);
    const int64_t blocks = (tokens + kernels::kBlockTokens - 1) / kernels::kBlockTokens;
    num_blocks_ = static_cast<int32_t>(blocks * shape_.num_rows);
    std::vector<int32_t> tables;
    for (int32_t block = 0; block < num_blocks_; ++block) tables.push_back(block);
    std::vector<kernels::SequenceQueries> sequences;
    std::vector<int64_t> slots;
    for (int64_t row = 0; row < shape_.num_rows; ++row) {
      sequences.push_back({.row_begin = row,
                           .num_rows = 1,
                           .position_begin = tokens - 1,
                           .table_begin = row * blocks});
      slots.push_back(row * blocks * kernels::kBlockTokens + tokens - 1);
    }
    const kernels::DecodePlan plan = kernels::PlanDecode(sequences);
    const auto rows = static_cast<size_t>(shape_.num_rows);
    tables_ = TakeWith(tables);
    slots_ = TakeWith(slots);
    num_empty_ = TakeWith(std::vector<int32_t>(rows, 0));
    query_scale_ = TakeWith(std::vector<float>(rows, 1));
    splits_ = TakeWith(plan.splits);
    num_splits_ = static_cast<int32_t>(plan.splits.size());
    rows_ = TakeWith(plan.rows);
    const int64_t half = shape_.num_rows * shape_.head_dim / 2;
    angles_ = {.cos = Take<float>(half), .sin = Take<float>(half)};
    qkv_ = Matrix(shape_.num_rows,
                  int64_t{shape_.num_q_heads + 2 * shape_.num_kv_heads} * shape_.head_dim);
    queries_ = Matrix(shape_.num_rows, int64_t{shape_.num_q_heads} * shape_.head_dim);
    attended_ = Matrix(shape_.num_rows, int64_t{shape_.num_q_heads} * shape_.head_dim);
    gate_up_ = Matrix(shape_.num_rows, 2 * int64_t{shape_.intermediate});
    inner_ = Matrix(shape_.num_rows, shape_.intermediate);
    workspace_ = memory_.take(DecodeWorkspaceBytes(Attention(nullptr), num_splits_));
  }

  kernels::RmsNormParams<kernels::BFloat16> Norm() {
    return {.x = hidden_,
            .weight = Take<float>(shape_.hidden),
            .num_rows = shape_.num_rows,
            .hidden = shape_.hidden,
            .eps = 1e-6f,
            .out = norm_};
  }

  // Without its output.
  kernels::GemmCudaParams Product(const kernels::BFloat16* x, int64_t n, int64_t k) {
    weight_bytes_ += n * k * static_cast<int64_t>(sizeof(kernels::BFloat16));
    return {.x = x, .weight = Matrix(n, k), .m = shape_.num_rows, .n = n, .k = k};
  }

  kernels::PagedAttentionParams Attention(uint8_t* kv_base) const {
    return {.q_intra = queries_,
            .block_tables = tables_,
            .kv_base = kv_base,
            .out = attended_,
            .num_rows = shape_.num_rows,
            .block_stride_bytes = Layout().BlockBytes(),
            .num_blocks = num_blocks_,
            .layout = Layout(),
            .num_q_heads = shape_.num_q_heads,
            .softmax_scale = static_cast<float>(1 / std::sqrt(double(shape_.head_dim)))};
  }

  Layer MakeLayer() {
    Layer layer;
    const int64_t query_cols = int64_t{shape_.num_q_heads} * shape_.head_dim;
    const int64_t qkv_cols = query_cols + 2 * int64_t{shape_.num_kv_heads} * shape_.head_dim;
    layer.input_norm = Norm();
    layer.qkv = Product(norm_, qkv_cols, shape_.hidden);
    layer.qkv.bias = Matrix(1, qkv_cols);
    layer.qkv.y = qkv_;
    auto* const kv = static_cast<uint8_t*>(memory_.take(num_blocks_ * Layout().BlockBytes()));
    layer.rope = {.qkv = qkv_,
                  .query_scale = query_scale_,
                  .intra = angles_,
                  .slot = slots_,
                  .num_empty = num_empty_,
                  .q_intra = queries_,
                  .kv_base = kv,
                  .num_rows = shape_.num_rows,
                  .block_stride_bytes = Layout().BlockBytes(),
                  .num_q_heads = shape_.num_q_heads,
                  .layout = Layout()};
    layer.attention = Attention(kv);
    layer.out = Product(attended_, shape_.hidden, query_cols);
    layer.out.adds = true;
    layer.out.y = hidden_;
    layer.post_attention_norm = Norm();
    layer.gate_up = Product(norm_, 2 * int64_t{shape_.intermediate}, shape_.hidden);
    layer.gate_up.y = gemm_ == nullptr ? inner_ : gate_up_;
    layer.silu_mul = {.gate = gate_up_,
                      .up = gate_up_ + shape_.intermediate,
                      .gate_stride = 2 * int64_t{shape_.intermediate},
                      .up_stride = 2 * int64_t{shape_.intermediate},
                      .num_rows = shape_.num_rows,
                      .cols = shape_.intermediate,
                      .out = inner_};
    layer.down = Product(inner_, shape_.hidden, shape_.intermediate);
    layer.down.adds = true;
    layer.down.y = hidden_;
    return layer;
  }

  const DecodeShape shape_;
  const DecodeMemory memory_;
  kernels::GemmCuda* const gemm_;
  int64_t weight_bytes_ = 0;
  // What all layers use.
  kernels::BFloat16* hidden_ = nullptr;
  kernels::BFloat16* norm_ = nullptr;
  kernels::BFloat16* qkv_ = nullptr;
  kernels::BFloat16* queries_ = nullptr;
  kernels::BFloat16* attended_ = nullptr;
  kernels::BFloat16* gate_up_ = nullptr;
  kernels::BFloat16* inner_ = nullptr;
  float* logits_ = nullptr;
  int32_t num_blocks_ = 0;
  const int32_t* tables_ = nullptr;
  const int64_t* slots_ = nullptr;
  const int32_t* num_empty_ = nullptr;
  const float* query_scale_ = nullptr;
  kernels::RopeAngles angles_;
  const kernels::DecodeSplit* splits_ = nullptr;
  int32_t num_splits_ = 0;
  const kernels::DecodeRow* rows_ = nullptr;
  void* workspace_ = nullptr;
  std::vector<Layer> layers_;
  kernels::RmsNormParams<kernels::BFloat16> final_norm_;
  kernels::GemmCudaParams head_;
};

}  // namespace longhaul::testing
