#include "worker/model/weights.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "worker/model/bfloat16.h"
#include "worker/model/qwen2_tensors.h"

namespace longhaul::worker::model {
namespace {

// Elements converted at a time on their way to the device.
constexpr int64_t kStagingElements = int64_t{1} << 20;

float Float16ToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t exponent = (half >> 10) & 0x1fu;
  const uint32_t fraction = half & 0x3ffu;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | (fraction << 13));
  if (exponent == 0) {  // zero or subnormal: a multiple of 2^-24
    const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
  }
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (fraction << 13));
}

// The element at `from` as fp32.
float Load(StoredType type, const uint8_t* from) {
  if (type == StoredType::kF32) {
    float value = 0;
    std::memcpy(&value, from, sizeof(value));
    return value;
  }
  uint16_t bits = 0;
  std::memcpy(&bits, from, sizeof(bits));
  return type == StoredType::kBF16 ? std::bit_cast<float>(static_cast<uint32_t>(bits) << 16)
                                   : Float16ToFloat(bits);
}

bool IsSame(StoredType stored, DType dtype) {
  return dtype == DType::kFloat32 ? stored == StoredType::kF32
                                  : dtype == DType::kBFloat16 && stored == StoredType::kBF16;
}

// `count` elements from element `begin` on.
void Convert(const StoredTensor& tensor, int64_t begin, int64_t count, DType dtype, uint8_t* out) {
  const int64_t stored_bytes = StoredTypeBytes(tensor.type);
  const uint8_t* from = tensor.data.data() + begin * stored_bytes;
  for (int64_t i = 0; i < count; ++i, from += stored_bytes) {
    const float value = Load(tensor.type, from);
    if (dtype == DType::kFloat32) {
      std::memcpy(out + i * int64_t{sizeof(value)}, &value, sizeof(value));
    } else {
      const uint16_t bits = FloatToBFloat16(value);
      std::memcpy(out + i * int64_t{sizeof(bits)}, &bits, sizeof(bits));
    }
  }
}

// Half-open.
struct Range {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
};

// The tensors of a checkpoint that CheckQwen2Tensors has passed.
class StoredWeights final : public WeightSource {
 public:
  StoredWeights(const Checkpoint& checkpoint, backend::Backend& backend)
      : checkpoint_(checkpoint), backend_(backend) {}

  absl::Status Fill(const std::string& name, int64_t row_begin, int64_t col_begin,
                    TensorView to) override {
    const StoredTensor& stored = *checkpoint_.entries().find(name)->second.tensor;
    const int64_t cols = stored.shape.size() == 1 ? 1 : stored.shape.back();
    if (to.cols == cols) return Copy(stored, row_begin * cols, to);
    for (int64_t row = 0; row < to.rows; ++row) {
      RETURN_IF_ERROR(Copy(stored, (row_begin + row) * cols + col_begin, to.Rows(row, 1)));
    }
    return absl::OkStatus();
  }

 private:
  // Fills `to` with a stored tensor's elements from `begin` on.
  absl::Status Copy(const StoredTensor& stored, int64_t begin, TensorView to) {
    if (IsSame(stored.type, to.dtype)) {
      return backend_.CopyToDevice(stored.data.data() + begin * DTypeBytes(to.dtype), to);
    }
    const int64_t element = DTypeBytes(to.dtype);
    staging_.resize(static_cast<size_t>(kStagingElements * element));
    for (int64_t done = 0; done < to.size(); done += kStagingElements) {
      const int64_t now = std::min(kStagingElements, to.size() - done);
      Convert(stored, begin + done, now, to.dtype, staging_.data());
      uint8_t* const device = static_cast<uint8_t*>(to.data) + done * element;
      RETURN_IF_ERROR(backend_.CopyToDevice(staging_.data(), {device, to.dtype, 1, now}));
    }
    return absl::OkStatus();
  }

  const Checkpoint& checkpoint_;
  backend::Backend& backend_;
  std::vector<uint8_t> staging_;
};

// Lays a range's tensors out on a device.
class Layout {
 public:
  Layout(const ModelConfig& config, const WeightRange& range, WeightSource& source,
         backend::Backend& backend)
      : config_(config), source_(source), backend_(backend), dtype_(backend.activation_dtype()) {
    CHECK(dtype_ == DType::kFloat32 || dtype_ == DType::kBFloat16);
    weights_.range = range;
  }

  absl::StatusOr<Weights> Fill() {
    const WeightRange& range = weights_.range;
    const bool last = range.layer_end == config_.num_layers;
    const bool needs_embedding = range.layer_begin == 0;
    if (needs_embedding) {
      const int64_t zeros = range.tensor_parallel_size > 1 ? 1 : 0;
      ASSIGN_OR_RETURN(weights_.embedding, VocabularyRows("model.embed_tokens.weight", zeros));
    }
    for (int32_t layer = range.layer_begin; layer < range.layer_end; ++layer) {
      RETURN_IF_ERROR(FillLayer(layer));
    }
    if (last) {
      ASSIGN_OR_RETURN(weights_.final_norm, Norm("model.norm.weight"));
      if (config_.tie_word_embeddings && needs_embedding) {
        weights_.lm_head.weight = weights_.embedding.Rows(0, Vocabulary().size());
      } else {
        ASSIGN_OR_RETURN(
            weights_.lm_head.weight,
            VocabularyRows(
                config_.tie_word_embeddings ? "model.embed_tokens.weight" : "lm_head.weight", 0));
      }
    }
    return std::move(weights_);
  }

 private:
  absl::Status FillLayer(int32_t index) {
    const auto name = [index](const char* suffix) { return LayerTensorName(index, suffix); };
    const int64_t hidden = config_.hidden_size;
    const Range q = Shard(int64_t{config_.num_heads} * config_.head_dim);
    const Range kv = Shard(int64_t{config_.num_kv_heads} * config_.head_dim);
    const Range inner = Shard(config_.intermediate_size);
    Weights::Layer layer;
    ASSIGN_OR_RETURN(layer.input_norm, Norm(name("input_layernorm.weight")));
    ASSIGN_OR_RETURN(layer.qkv.weight, Stacked({{name("self_attn.q_proj.weight"), q},
                                                {name("self_attn.k_proj.weight"), kv},
                                                {name("self_attn.v_proj.weight"), kv}},
                                               hidden));
    ASSIGN_OR_RETURN(layer.qkv.bias, Stacked({{name("self_attn.q_proj.bias"), q},
                                              {name("self_attn.k_proj.bias"), kv},
                                              {name("self_attn.v_proj.bias"), kv}},
                                             1));
    layer.qkv.bias = {layer.qkv.bias.data, dtype_, 1, layer.qkv.bias.rows};
    ASSIGN_OR_RETURN(layer.out.weight, Columns(name("self_attn.o_proj.weight"), q));
    ASSIGN_OR_RETURN(layer.post_attention_norm, Norm(name("post_attention_layernorm.weight")));
    ASSIGN_OR_RETURN(layer.gate_up.weight, Stacked({{name("mlp.gate_proj.weight"), inner},
                                                    {name("mlp.up_proj.weight"), inner}},
                                                   hidden));
    ASSIGN_OR_RETURN(layer.down.weight, Columns(name("mlp.down_proj.weight"), inner));
    weights_.layers.push_back(layer);
    return absl::OkStatus();
  }

  // This shard's part of a dimension.
  Range Shard(int64_t size) const {
    const int64_t part = size / weights_.range.tensor_parallel_size;
    return {part * weights_.range.tensor_parallel_rank,
            part * (weights_.range.tensor_parallel_rank + 1)};
  }

  // This shard's token ids.
  Range Vocabulary() const {
    const int32_t rank = weights_.range.tensor_parallel_rank;
    const int32_t size = weights_.range.tensor_parallel_size;
    return {VocabularyBegin(config_, rank, size), VocabularyBegin(config_, rank + 1, size)};
  }

  absl::StatusOr<TensorView> NewTensor(int64_t rows, int64_t cols, DType dtype) {
    TensorView tensor{nullptr, dtype, rows, cols};
    ASSIGN_OR_RETURN(backend::DeviceBuffer buffer, backend_.Allocate(tensor.bytes()));
    tensor.data = buffer.data();
    weights_.bytes += tensor.bytes();
    weights_.buffers.push_back(std::move(buffer));
    return tensor;
  }

  // The weights of a norm.
  absl::StatusOr<TensorView> Norm(const std::string& name) {
    const int64_t size = config_.hidden_size;
    ASSIGN_OR_RETURN(const TensorView tensor, NewTensor(1, size, DType::kFloat32));
    RETURN_IF_ERROR(source_.Fill(name, 0, 0, {tensor.data, tensor.dtype, size, 1}));
    return tensor;
  }

  // Rows of several tensors, one below the other.
  absl::StatusOr<TensorView> Stacked(const std::vector<std::pair<std::string, Range>>& parts,
                                     int64_t cols) {
    int64_t rows = 0;
    for (const auto& [name, range] : parts) rows += range.size();
    ASSIGN_OR_RETURN(TensorView tensor, NewTensor(rows, cols, dtype_));
    int64_t row = 0;
    for (const auto& [name, range] : parts) {
      RETURN_IF_ERROR(source_.Fill(name, range.begin, 0, tensor.Rows(row, range.size())));
      row += range.size();
    }
    return tensor;
  }

  // This shard's rows of a matrix with a row a token, then rows of zeros.
  absl::StatusOr<TensorView> VocabularyRows(const std::string& name, int64_t zero_rows) {
    const Range ids = Vocabulary();
    ASSIGN_OR_RETURN(TensorView tensor,
                     NewTensor(ids.size() + zero_rows, config_.hidden_size, dtype_));  // zeroed
    RETURN_IF_ERROR(source_.Fill(name, ids.begin, 0, tensor.Rows(0, ids.size())));
    return tensor;
  }

  // Columns of a matrix with a row for each element of the residual stream.
  absl::StatusOr<TensorView> Columns(const std::string& name, Range columns) {
    ASSIGN_OR_RETURN(const TensorView tensor,
                     NewTensor(config_.hidden_size, columns.size(), dtype_));
    RETURN_IF_ERROR(source_.Fill(name, 0, columns.begin, tensor));
    return tensor;
  }

  const ModelConfig& config_;
  WeightSource& source_;
  backend::Backend& backend_;
  const DType dtype_;
  Weights weights_;
};

// "1, 2, 4"
std::string PossibleSizes(const ModelConfig& config) {
  std::string sizes = "1";
  for (int32_t size = 2; size <= config.num_kv_heads; ++size) {
    if (config.num_kv_heads % size == 0 && config.intermediate_size % size == 0 &&
        size <= config.vocab_size) {
      absl::StrAppend(&sizes, ", ", size);
    }
  }
  return sizes;
}

absl::Status CheckRange(const ModelConfig& config, const WeightRange& range) {
  if (range.layer_begin < 0 || range.layer_begin >= range.layer_end ||
      range.layer_end > config.num_layers) {
    return absl::InvalidArgumentError(absl::StrCat("layers [", range.layer_begin, ", ",
                                                   range.layer_end, ") of a model of ",
                                                   config.num_layers, " layers"));
  }
  const int32_t size = range.tensor_parallel_size;
  if (size < 1 || range.tensor_parallel_rank < 0 || range.tensor_parallel_rank >= size) {
    return absl::InvalidArgumentError(
        absl::StrCat("shard ", range.tensor_parallel_rank, " of ", size));
  }
  if (config.num_kv_heads % size != 0 || config.intermediate_size % size != 0 ||
      config.vocab_size < size) {
    return absl::InvalidArgumentError(
        absl::StrCat("the model has ", config.num_kv_heads, " KV heads and intermediate size ",
                     config.intermediate_size, ", which ", size,
                     " ranks cannot share evenly: set --tensor-parallel-size to one of ",
                     PossibleSizes(config)));
  }
  return absl::OkStatus();
}

}  // namespace

int64_t VocabularyBegin(const ModelConfig& config, int32_t rank, int32_t size) {
  return int64_t{config.vocab_size} * rank / size;
}

int64_t WeightBytes(const ModelConfig& config, const WeightRange& range, DType dtype) {
  const int64_t shards = range.tensor_parallel_size;
  const int64_t hidden = config.hidden_size;
  const int64_t query_cols = int64_t{config.num_heads} * config.head_dim / shards;
  const int64_t qkv_rows = query_cols + int64_t{2} * config.num_kv_heads * config.head_dim / shards;
  const int64_t layer = qkv_rows * (hidden + 1) + hidden * query_cols +
                        3 * hidden * config.intermediate_size / shards;
  const int64_t vocabulary =
      VocabularyBegin(config, range.tensor_parallel_rank + 1, range.tensor_parallel_size) -
      VocabularyBegin(config, range.tensor_parallel_rank, range.tensor_parallel_size);
  const int64_t layers = range.layer_end - range.layer_begin;
  const bool first = range.layer_begin == 0;
  const bool last = range.layer_end == config.num_layers;
  int64_t elements = layers * layer;
  int64_t norms = layers * 2 * hidden;
  if (first) elements += (vocabulary + (shards > 1 ? 1 : 0)) * hidden;
  if (last) norms += hidden;
  if (last && !(first && config.tie_word_embeddings)) elements += vocabulary * hidden;
  return elements * DTypeBytes(dtype) + norms * DTypeBytes(DType::kFloat32);
}

absl::StatusOr<Weights> MakeWeights(const ModelConfig& config, const WeightRange& range,
                                    WeightSource& source, backend::Backend& backend) {
  RETURN_IF_ERROR(CheckRange(config, range));
  return Layout(config, range, source, backend).Fill();
}

absl::StatusOr<Weights> LoadWeights(const ModelConfig& config, const Checkpoint& checkpoint,
                                    const WeightRange& range, backend::Backend& backend) {
  RETURN_IF_ERROR(CheckQwen2Tensors(config, checkpoint));
  StoredWeights source(checkpoint, backend);
  return MakeWeights(config, range, source, backend);
}

}  // namespace longhaul::worker::model
