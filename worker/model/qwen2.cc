#include "worker/model/qwen2.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "common/logging.h"
#include "common/status_macros.h"

namespace longhaul::worker::model {
namespace {

using backend::RotaryRule;
using backend::SequenceRows;

RotaryRule MakeRotaryRule(const ModelConfig& config, const AttentionOptions& options) {
  RotaryRule rule{.theta = config.rope_theta, .head_dim = config.head_dim};
  if (options.dual_chunk && config.dual_chunk.has_value()) {
    rule.chunk_len = config.dual_chunk->chunk_len();
    rule.chunk_size = config.dual_chunk->chunk_size;
  }
  return rule;
}

// Cuts a buffer into matrices. Without one (null) it only counts the bytes they take.
class Carver {
 public:
  explicit Carver(uint8_t* data) : data_(data) {}

  TensorView Take(DType dtype, int64_t rows, int64_t cols) {
    TensorView tensor{data_ == nullptr ? nullptr : data_ + bytes_, dtype, rows, cols};
    bytes_ += (tensor.bytes() + kAlignment - 1) / kAlignment * kAlignment;
    return tensor;
  }
  int64_t bytes() const { return bytes_; }

 private:
  static constexpr int64_t kAlignment = 128;  // a cache line of a CUDA device

  uint8_t* const data_;
  int64_t bytes_ = 0;
};

// Gives `buffer` the room that `carve` asks for and lets it cut it.
template <typename Carve>
absl::Status Reserve(backend::Backend& device, backend::DeviceBuffer& buffer, Carve carve) {
  Carver count(nullptr);
  carve(count);
  buffer = {};  // first, so that the old and the new one are never held together
  ASSIGN_OR_RETURN(buffer, device.Allocate(count.bytes()));
  Carver cut(buffer.data());
  carve(cut);
  return absl::OkStatus();
}

std::vector<SequenceRows> RowsOf(std::span<const ModelSlice> slices) {
  std::vector<SequenceRows> rows;
  int64_t row = 0;
  for (const ModelSlice& slice : slices) {
    const int64_t count = static_cast<int64_t>(slice.token_ids.size());
    rows.push_back({.row_begin = row,
                    .num_rows = count,
                    .position_begin = slice.position_begin,
                    .block_table = slice.block_table});
    row += count;
  }
  return rows;
}

// Calls `run(slot, begin, count)` for rows [begin, begin + count) of `num_rows`, `tile` at a time,
// slots counted from 0. The last are enough for the algorithm that all rows of a large unit have.
template <typename Run>
absl::Status ForTiles(int64_t num_rows, int64_t tile, const Run& run) {
  int64_t count = 0;
  size_t slot = 0;
  for (int64_t begin = 0; begin < num_rows; begin += count) {
    const int64_t rest = num_rows - begin;
    count = rest > tile && rest < tile + Qwen2::kFewRows ? tile - Qwen2::kFewRows
                                                         : std::min(tile, rest);
    const absl::Status status = run(slot++, begin, count);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

int64_t NumRows(std::span<const ModelSlice> slices) {
  int64_t rows = 0;
  for (const ModelSlice& slice : slices) rows += static_cast<int64_t>(slice.token_ids.size());
  return rows;
}

}  // namespace

double TemperatureFactor(const AttentionOptions& options, const ModelConfig& config,
                         int64_t position, int64_t prompt_tokens) {
  if (!options.dual_chunk || !config.dual_chunk.has_value()) return 1.0;
  const int32_t original = config.dual_chunk->original_max_position_embeddings;
  if (original <= 0) return 1.0;
  int64_t length = position + 1;
  if (options.temperature == AttentionTemperature::kRequest) {
    length = std::max(length, prompt_tokens);
  }
  return std::max(1.0, 0.1 * std::log(static_cast<double>(length) / original) + 1.0);
}

Qwen2::Qwen2(const ModelConfig& config, const AttentionOptions& options, Weights weights,
             backend::Backend& backend, ShardSums* sums)
    : config_(config),
      options_(options),
      rotary_rule_(MakeRotaryRule(config, options)),
      weights_(std::move(weights)),
      backend_(backend),
      sums_(sums) {
  CHECK((sums_ != nullptr) == (weights_.range.tensor_parallel_size > 1))
      << "shards=" << weights_.range.tensor_parallel_size;
}

absl::Status Qwen2::Begin(std::span<const ModelSlice> slices, Activations& activations) {
  const int64_t num_rows = NumRows(slices);
  RETURN_IF_ERROR(ReserveScratch(num_rows));
  RETURN_IF_ERROR(ReserveActivations(num_rows, activations));
  query_scale_.clear();
  ids_.clear();
  const bool embeds = weights_.embedding.data != nullptr;
  for (const ModelSlice& slice : slices) {
    for (size_t i = 0; i < slice.token_ids.size(); ++i) {
      const int64_t position = slice.position_begin + static_cast<int64_t>(i);
      const double f = TemperatureFactor(options_, config_, position, slice.prompt_tokens);
      query_scale_.push_back(static_cast<float>(f * f));
      if (embeds) ids_.push_back(EmbeddingRow(slice.token_ids[i]));
    }
  }
  if (activations.plan_ == nullptr) activations.plan_ = backend_.MakeRowPlan();
  const std::vector<SequenceRows> sequences = RowsOf(slices);
  return backend_.PlanRows(rotary_rule_,
                           {.sequences = sequences, .query_scale = query_scale_, .ids = ids_},
                           *activations.plan_);
}

TokenId Qwen2::EmbeddingRow(TokenId id) const {
  if (sums_ == nullptr) return id;
  const WeightRange& range = weights_.range;
  const int64_t begin =
      VocabularyBegin(config_, range.tensor_parallel_rank, range.tensor_parallel_size);
  const int64_t zero_row = weights_.embedding.rows - 1;
  const bool own = id >= begin && id < begin + zero_row;
  return static_cast<TokenId>(own ? id - begin : zero_row);
}

absl::Status Qwen2::Embed(Activations& activations) {
  CHECK(weights_.embedding.data != nullptr) << "Embed on a stage without the embedding";
  RETURN_IF_ERROR(backend_.Embed(weights_.embedding, *activations.plan_, activations.hidden_));
  RETURN_IF_ERROR(BeginSum(activations.hidden_, 0));  // exact: all but one summand are zeros
  return Await(0);
}

int64_t Qwen2::TileRows(int64_t num_rows) const {
  if (sums_ == nullptr) return kMlpRows;
  const int64_t part = (num_rows + kSumTiles - 1) / kSumTiles;
  return std::clamp(part, kMinSumRows, kMlpRows);
}

absl::Status Qwen2::TakeUp(TensorView x, const backend::LinearWeight& linear, TensorView hidden,
                           size_t slot) {
  if (weights_.range.tensor_parallel_rank == 0) {
    RETURN_IF_ERROR(backend_.LinearAdd(x, linear.weight, hidden));
  } else {
    RETURN_IF_ERROR(backend_.Linear(x, linear, hidden));
  }
  return BeginSum(hidden, slot);
}

absl::Status Qwen2::BeginSum(TensorView inout, size_t slot) {
  return sums_ == nullptr ? absl::OkStatus() : sums_->BeginSum(inout, slot);
}

absl::Status Qwen2::RunLayer(int32_t layer, const backend::KvLayer& kv, Activations& activations) {
  const WeightRange& range = weights_.range;
  CHECK(layer >= range.layer_begin && layer < range.layer_end) << "layer=" << layer;
  const Weights::Layer& weights = weights_.layers[static_cast<size_t>(layer - range.layer_begin)];
  const backend::RowPlan& plan = *activations.plan_;
  const int64_t num_rows = activations.num_rows_;
  CHECK(num_rows <= scratch_.capacity_rows) << "rows=" << num_rows;
  CHECK(kv.shape.num_kv_heads * range.tensor_parallel_size == config_.num_kv_heads)
      << "cache of " << kv.shape.num_kv_heads << " KV heads";
  const double eps = config_.rms_norm_eps;
  const TensorView hidden = activations.hidden_;
  const TensorView norm = scratch_.norm.Rows(0, num_rows);
  const TensorView qkv = scratch_.qkv.Rows(0, num_rows);
  const TensorView attended = scratch_.attended.Rows(0, num_rows);

  const int64_t tile = TileRows(num_rows);

  // x += Wo attention(rope(Wqkv norm(x)))
  const auto project = [&](size_t slot, int64_t begin, int64_t count) -> absl::Status {
    RETURN_IF_ERROR(Await(slot));
    const TensorView normed = norm.Rows(begin, count);
    RETURN_IF_ERROR(backend_.RmsNorm(hidden.Rows(begin, count), weights.input_norm, eps, normed));
    return backend_.Linear(normed, weights.qkv, qkv.Rows(begin, count));
  };
  const auto take_up = [&](size_t slot, int64_t begin, int64_t count) {
    return TakeUp(attended.Rows(begin, count), weights.out, hidden.Rows(begin, count), slot);
  };
  RETURN_IF_ERROR(ForTiles(num_rows, tile, project));
  RETURN_IF_ERROR(backend_.RotateAndStore(qkv, plan, kv, scratch_.queries));
  RETURN_IF_ERROR(backend_.Attend(scratch_.queries, plan, kv, attended));
  RETURN_IF_ERROR(ForTiles(num_rows, tile, take_up));

  // x += Wdown (silu(Wgate norm(x)) * Wup norm(x))
  const auto mlp = [&](size_t slot, int64_t begin, int64_t count) -> absl::Status {
    RETURN_IF_ERROR(Await(slot));
    const TensorView rows = hidden.Rows(begin, count);
    const TensorView normed = norm.Rows(begin, count);
    const TensorView inner = scratch_.inner.Rows(0, count);
    RETURN_IF_ERROR(backend_.RmsNorm(rows, weights.post_attention_norm, eps, normed));
    RETURN_IF_ERROR(
        backend_.GatedLinear(normed, weights.gate_up, scratch_.gate_up.Rows(0, count), inner));
    return TakeUp(inner, weights.down, rows, slot);
  };
  return ForTiles(num_rows, tile, mlp);
}

absl::Status Qwen2::RunLayers(int32_t begin, int32_t end, const backend::KvLayer& kv,
                              Activations& activations, absl::FunctionRef<absl::Status()> run) {
  // A recorded sum would have to be forgotten before its communicator can be aborted, and be
  // recorded by all shards or by none.
  if (sums_ != nullptr) {
    RETURN_IF_ERROR(run());
    return ForTiles(activations.num_rows_, TileRows(activations.num_rows_),
                    [this](size_t slot, int64_t, int64_t) { return Await(slot); });
  }
  const auto address = [](const void* p) {
    return static_cast<uint64_t>(reinterpret_cast<uintptr_t>(p));
  };
  const uint64_t tag[] = {static_cast<uint64_t>(begin),
                          static_cast<uint64_t>(end),
                          address(activations.hidden_.data),
                          address(scratch_.buffer.data()),
                          address(kv.base),
                          address(weights_.layers.front().qkv.weight.data)};
  return backend_.Repeat(*activations.plan_, tag, run);
}

absl::StatusOr<TensorView> Qwen2::Logits(std::span<const int64_t> rows,
                                         const Activations& activations) {
  CHECK(weights_.lm_head.weight.data != nullptr) << "Logits on a stage without the head";
  const int64_t count = static_cast<int64_t>(rows.size());
  RETURN_IF_ERROR(ReserveLogits(count));
  for (int64_t begin = 0; begin < count;) {
    const int64_t first = rows[static_cast<size_t>(begin)];
    int64_t run = 1;  // rows that lie one behind the other
    while (begin + run < count && rows[static_cast<size_t>(begin + run)] == first + run) ++run;
    RETURN_IF_ERROR(backend_.RmsNorm(activations.hidden_.Rows(first, run), weights_.final_norm,
                                     config_.rms_norm_eps, logits_.norm.Rows(begin, run)));
    begin += run;
  }
  const TensorView logits = (sums_ == nullptr ? logits_.logits : logits_.own).Rows(0, count);
  RETURN_IF_ERROR(backend_.Linear(logits_.norm.Rows(0, count), weights_.lm_head, logits));
  return sums_ == nullptr ? logits : GatherLogits(count);
}

absl::StatusOr<TensorView> Qwen2::GatherLogits(int64_t count) {
  std::vector<TensorView> parts;
  for (const TensorView& part : logits_.parts) parts.push_back(part.Rows(0, count));
  RETURN_IF_ERROR(sums_->Gather(logits_.own.Rows(0, count), parts));
  if (parts.empty()) return TensorView{};
  const TensorView logits = logits_.logits.Rows(0, count);
  int64_t column = 0;
  for (const TensorView& part : parts) {
    RETURN_IF_ERROR(backend_.CopyColumns(part, logits, column));
    column += part.cols;
  }
  return logits;
}

absl::Status Qwen2::ReserveScratch(int64_t rows) {
  if (rows <= scratch_.capacity_rows) return absl::OkStatus();
  scratch_.capacity_rows = 0;
  const Weights::Layer& layer = weights_.layers.front();
  const DType dtype = backend_.activation_dtype();
  RETURN_IF_ERROR(Reserve(backend_, scratch_.buffer,
                          [&](Carver& carver) {
                            const int64_t mlp_rows = std::min(rows, kMlpRows);
                            const int64_t query_cols = layer.out.weight.cols;
                            scratch_.norm = carver.Take(dtype, rows, config_.hidden_size);
                            scratch_.qkv = carver.Take(dtype, rows, layer.qkv.weight.rows);
                            scratch_.queries.intra = carver.Take(dtype, rows, query_cols);
                            scratch_.queries.succ = carver.Take(dtype, rows, query_cols);
                            scratch_.queries.inter = carver.Take(dtype, rows, query_cols);
                            scratch_.attended = carver.Take(dtype, rows, query_cols);
                            scratch_.gate_up =
                                carver.Take(dtype, mlp_rows, layer.gate_up.weight.rows);
                            scratch_.inner = carver.Take(dtype, mlp_rows, layer.down.weight.cols);
                          }))
      << "activations of " << rows << " tokens";
  scratch_.capacity_rows = rows;
  return absl::OkStatus();
}

absl::Status Qwen2::ReserveActivations(int64_t rows, Activations& activations) {
  const auto carve = [&](Carver& carver) {
    activations.hidden_ = carver.Take(backend_.activation_dtype(), rows, config_.hidden_size);
  };
  if (rows > activations.capacity_rows_) {
    activations.capacity_rows_ = 0;
    RETURN_IF_ERROR(Reserve(backend_, activations.buffer_, carve))
        << "residual stream of " << rows << " tokens";
    activations.capacity_rows_ = rows;
  } else {
    Carver cut(activations.buffer_.data());
    carve(cut);
  }
  activations.num_rows_ = rows;
  return absl::OkStatus();
}

absl::Status Qwen2::ReserveLogits(int64_t rows) {
  if (rows <= logits_.capacity_rows) return absl::OkStatus();
  logits_.capacity_rows = 0;
  const int32_t shards = weights_.range.tensor_parallel_size;
  const bool is_first = weights_.range.tensor_parallel_rank == 0;
  RETURN_IF_ERROR(
      Reserve(backend_, logits_.buffer,
              [&](Carver& carver) {
                logits_.norm = carver.Take(backend_.activation_dtype(), rows, config_.hidden_size);
                if (is_first) {
                  logits_.logits = carver.Take(DType::kFloat32, rows, config_.vocab_size);
                }
                if (shards == 1) return;
                logits_.own = carver.Take(DType::kFloat32, rows, weights_.lm_head.weight.rows);
                if (!is_first) return;
                logits_.parts = {logits_.own};
                for (int32_t shard = 1; shard < shards; ++shard) {
                  logits_.parts.push_back(carver.Take(DType::kFloat32, rows,
                                                      VocabularyBegin(config_, shard + 1, shards) -
                                                          VocabularyBegin(config_, shard, shards)));
                }
              }))
      << "logits of " << rows << " rows";
  logits_.capacity_rows = rows;
  return absl::OkStatus();
}

}  // namespace longhaul::worker::model
