#include "tests/testing/tiny_model.h"

#include <bit>
#include <cstring>
#include <fstream>
#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/logging.h"
#include "tests/testing/golden.h"
#include "worker/model/qwen2_tensors.h"

namespace longhaul::testing {
namespace {

using worker::model::StoredType;

void WriteFile(const std::string& path, const std::string& content) {
  std::ofstream file(path, std::ios::binary);
  CHECK(file.write(content.data(), static_cast<std::streamsize>(content.size()))) << path;
}

// `value` is 0 or a multiple of 2^-10 below 2 with at most 8 significant bits.
std::string Encode(float value, StoredType type) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if (type == StoredType::kF32) return {reinterpret_cast<const char*>(&bits), 4};
  uint16_t half = static_cast<uint16_t>(bits >> 16);  // BF16
  if (type == StoredType::kF16) {
    const uint32_t exponent = (bits >> 23) & 0xff;
    half = static_cast<uint16_t>((bits >> 16) & 0x8000u);
    if (exponent != 0) {
      half = static_cast<uint16_t>(half | ((exponent - 112) << 10) | ((bits >> 13) & 0x3ffu));
    }
  }
  return {reinterpret_cast<const char*>(&half), 2};
}

}  // namespace

void SafetensorsBuilder::Add(const std::string& name, StoredType type, std::vector<int64_t> shape,
                             std::string data) {
  absl::StrAppend(&header_, header_.empty() ? "" : ",", "\"", name, "\":{\"dtype\":\"",
                  worker::model::StoredTypeName(type), "\",\"shape\":[", absl::StrJoin(shape, ","),
                  "],\"data_offsets\":[", data_.size(), ",", data_.size() + data.size(), "]}");
  data_ += data;
}

std::string SafetensorsBuilder::Build() const {
  return Raw(absl::StrCat("{\"__metadata__\":{\"format\":\"pt\"}", header_.empty() ? "" : ",",
                          header_, "}"),
             data_);
}

std::string SafetensorsBuilder::Raw(const std::string& header, const std::string& data) {
  const uint64_t size = header.size();
  return std::string(reinterpret_cast<const char*>(&size), sizeof(size)) + header + data;
}

ModelConfig TinyModel::Config() const {
  return {.num_layers = num_layers,
          .hidden_size = 96,
          .intermediate_size = 160,
          .num_heads = 3 * num_kv_heads,
          .num_kv_heads = num_kv_heads,
          .head_dim = 64,
          .vocab_size = vocab_size,
          .max_position_embeddings = max_position_embeddings,
          .rope_theta = 10000,
          .rms_norm_eps = 1e-6,
          .tie_word_embeddings = tied,
          .dual_chunk = DualChunkConfig{
              .chunk_size = 768, .local_size = 256, .original_max_position_embeddings = 600}};
}

std::vector<float> TinyModel::Values(const std::string& name, int64_t size) const {
  const uint64_t own_seed = SplitMix64(seed, std::hash<std::string>()(name));
  std::vector<float> values(static_cast<size_t>(size));
  for (size_t i = 0; i < values.size(); ++i) {
    // Up to 127 times 2^-9, 7 bits; norms of about one have 8.
    const int step = static_cast<int>(SplitMix64(own_seed, i) % 255) - 127;
    const int half = step / 2;
    values[i] = static_cast<float>(step) * 0x1p-9f;
    if (name.find("norm") != name.npos) values[i] = 1.0f + static_cast<float>(half) * 0x1p-7f;
  }
  return values;
}

void TinyModel::Write(const std::string& model_dir) const {
  const ModelConfig config = Config();
  WriteFile(
      model_dir + "/config.json",
      absl::StrCat(R"({"architectures":["Qwen2ForCausalLM"],"model_type":"qwen2",)",
                   R"("hidden_act":"silu","torch_dtype":"float32","eos_token_id":299,)",
                   "\"num_hidden_layers\":", config.num_layers, ",\"hidden_size\":",
                   config.hidden_size, ",\"intermediate_size\":", config.intermediate_size,
                   ",\"num_attention_heads\":", config.num_heads,
                   ",\"num_key_value_heads\":", config.num_kv_heads,
                   ",\"head_dim\":", config.head_dim, ",\"vocab_size\":", config.vocab_size,
                   ",\"max_position_embeddings\":", config.max_position_embeddings,
                   ",\"rope_theta\":10000.0,\"rms_norm_eps\":1e-6,\"tie_word_embeddings\":",
                   tied ? "true" : "false", ",\"dual_chunk_attention_config\":{\"chunk_size\":768,",
                   "\"local_size\":256,\"original_max_position_embeddings\":600}}"));
  std::vector<SafetensorsBuilder> files(static_cast<size_t>(num_files));
  std::vector<std::string> map;
  const auto table = worker::model::Qwen2Tensors(config);
  const auto file_name = [this](size_t file) {
    return num_files == 1 ? "model.safetensors" : absl::StrCat("model-", file + 1, ".safetensors");
  };
  for (size_t i = 0; i < table.size(); ++i) {
    const size_t file = i * files.size() / table.size();
    int64_t size = 1;
    for (const int64_t dimension : table[i].shape) size *= dimension;
    std::string data;
    for (const float value : Values(table[i].name, size)) data += Encode(value, type);
    files[file].Add(table[i].name, type, table[i].shape, std::move(data));
    map.push_back(absl::StrCat("\"", table[i].name, "\":\"", file_name(file), "\""));
  }
  for (size_t file = 0; file < files.size(); ++file) {
    WriteFile(model_dir + "/" + file_name(file), files[file].Build());
  }
  if (num_files > 1) {
    WriteFile(model_dir + "/model.safetensors.index.json",
              absl::StrCat("{\"metadata\":{},\"weight_map\":{", absl::StrJoin(map, ","), "}}"));
  }
}

}  // namespace longhaul::testing
