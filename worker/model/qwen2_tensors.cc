#include "worker/model/qwen2_tensors.h"

#include <set>

#include "absl/strings/str_cat.h"

namespace longhaul::worker::model {

std::string LayerTensorName(int32_t layer, const std::string& suffix) {
  return absl::StrCat("model.layers.", layer, ".", suffix);
}

std::vector<ExpectedTensor> Qwen2Tensors(const ModelConfig& config) {
  const int64_t hidden = config.hidden_size;
  const int64_t inner = config.intermediate_size;
  const int64_t q = int64_t{config.num_heads} * config.head_dim;
  const int64_t kv = int64_t{config.num_kv_heads} * config.head_dim;
  std::vector<ExpectedTensor> table;
  table.push_back({"model.embed_tokens.weight", {config.vocab_size, hidden}});
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    const auto add = [&table, layer](const char* suffix, std::vector<int64_t> shape) {
      table.push_back({LayerTensorName(layer, suffix), std::move(shape)});
    };
    add("input_layernorm.weight", {hidden});
    add("self_attn.q_proj.weight", {q, hidden});
    add("self_attn.q_proj.bias", {q});
    add("self_attn.k_proj.weight", {kv, hidden});
    add("self_attn.k_proj.bias", {kv});
    add("self_attn.v_proj.weight", {kv, hidden});
    add("self_attn.v_proj.bias", {kv});
    add("self_attn.o_proj.weight", {hidden, q});
    add("post_attention_layernorm.weight", {hidden});
    add("mlp.gate_proj.weight", {inner, hidden});
    add("mlp.up_proj.weight", {inner, hidden});
    add("mlp.down_proj.weight", {hidden, inner});
  }
  table.push_back({"model.norm.weight", {hidden}});
  if (!config.tie_word_embeddings) {
    table.push_back({"lm_head.weight", {config.vocab_size, hidden}});
  }
  return table;
}

absl::Status CheckQwen2Tensors(const ModelConfig& config, const Checkpoint& checkpoint) {
  std::set<std::string_view> known;
  const std::vector<ExpectedTensor> table = Qwen2Tensors(config);
  for (const ExpectedTensor& expected : table) {
    known.insert(expected.name);
    const auto found = checkpoint.entries().find(expected.name);
    if (found == checkpoint.entries().end()) {
      return absl::InvalidArgumentError(
          absl::StrCat(checkpoint.path(), ": tensor ", QuotedName(expected.name), " is missing"));
    }
    const auto& [file, tensor] = found->second;
    const std::string place = absl::StrCat(file->path(), ": tensor ", QuotedName(expected.name));
    if (tensor->shape != expected.shape) {
      StoredTensor wanted;
      wanted.shape = expected.shape;
      return absl::InvalidArgumentError(absl::StrCat(place, " has shape ", tensor->Shape(),
                                                     ", config.json asks for ", wanted.Shape()));
    }
    if (tensor->type != StoredType::kF32 && tensor->type != StoredType::kBF16 &&
        tensor->type != StoredType::kF16) {
      return absl::InvalidArgumentError(absl::StrCat(place, " is ", StoredTypeName(tensor->type),
                                                     ", supported are F32, BF16 and F16"));
    }
  }
  for (const auto& [name, entry] : checkpoint.entries()) {
    if (!known.contains(name)) {
      return absl::InvalidArgumentError(
          absl::StrCat(entry.file->path(), ": tensor ", QuotedName(name),
                       " is none of the model that config.json says"));
    }
  }
  return absl::OkStatus();
}

}  // namespace longhaul::worker::model
