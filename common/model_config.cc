#include "common/model_config.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace longhaul {
namespace {

using nlohmann::json;

constexpr int64_t kMaxConfigBytes = 1 << 20;  // published ones are under 1 KB
constexpr int32_t kMaxDimension = 1 << 24;    // keeps every product of two dimensions in int64

// One JSON object of a file; every error names file and field.
class JsonFile {
 public:
  static absl::StatusOr<JsonFile> Read(const std::string& path) {
    std::ifstream file(path, std::ios::binary | std::ios::ate);
    if (!file) return absl::NotFoundError(absl::StrCat("cannot read ", path));
    const int64_t size = file.tellg();
    if (size < 0 || size > kMaxConfigBytes) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, " has ", size, " bytes, limit ", kMaxConfigBytes));
    }
    file.seekg(0);
    std::ostringstream text;
    text << file.rdbuf();
    json root = json::parse(text.str(), nullptr, /*allow_exceptions=*/false);
    if (!root.is_object()) {
      return absl::InvalidArgumentError(absl::StrCat(path, " is not a JSON object"));
    }
    return JsonFile(path, std::move(root));
  }

  // True if the field is there and not null.
  bool Has(const std::string& field) const {
    const auto found = root_.find(field);
    return found != root_.end() && !found->is_null();
  }

  absl::Status Error(const std::string& field, const std::string& what) const {
    return absl::InvalidArgumentError(absl::StrCat(path_, ": ", field, " ", what));
  }
  absl::Status Unsupported(const std::string& field, const std::string& what) const {
    return absl::UnimplementedError(absl::StrCat(path_, ": ", field, " ", what));
  }

  absl::StatusOr<int32_t> Int(const std::string& field, int32_t low, int32_t high) const {
    if (!Has(field)) return Error(field, "is missing");
    const json& value = root_.at(field);
    if (!value.is_number_integer()) return Error(field, "must be a whole number");
    if (value.is_number_unsigned() ? value.get<uint64_t>() > static_cast<uint64_t>(high)
                                   : value.get<int64_t>() < low) {
      return Error(field, absl::StrCat("is ", value.dump(), ", must be from ", low, " to ", high));
    }
    const int64_t number = value.get<int64_t>();
    if (number < low || number > high) {
      return Error(field, absl::StrCat("is ", number, ", must be from ", low, " to ", high));
    }
    return static_cast<int32_t>(number);
  }

  absl::StatusOr<double> Number(const std::string& field, double low, double high) const {
    if (!Has(field)) return Error(field, "is missing");
    const json& value = root_.at(field);
    if (!value.is_number()) return Error(field, "must be a number");
    const double number = value.get<double>();
    if (!(number >= low && number <= high)) {
      return Error(field, absl::StrCat("is ", number, ", must be from ", low, " to ", high));
    }
    return number;
  }

  absl::StatusOr<bool> Bool(const std::string& field, bool fallback) const {
    if (!Has(field)) return fallback;
    if (!root_.at(field).is_boolean()) return Error(field, "must be true or false");
    return root_.at(field).get<bool>();
  }

  // The text of a string field, or its JSON where it is something else; empty if absent.
  std::string Text(const std::string& field) const {
    if (!Has(field)) return "";
    const json& value = root_.at(field);
    return value.is_string() ? value.get<std::string>() : value.dump();
  }

  // A token id or a list of them.
  absl::StatusOr<std::vector<TokenId>> TokenIds(const std::string& field) const {
    std::vector<TokenId> ids;
    if (!Has(field)) return ids;
    const json& value = root_.at(field);
    const json list = value.is_array() ? value : json::array({value});
    for (const json& item : list) {
      if (!item.is_number_integer() || item < 0 || item > kMaxDimension) {
        return Error(field, absl::StrCat("has ", item.dump(), ", must be a token id"));
      }
      ids.push_back(item.get<TokenId>());
    }
    return ids;
  }

  absl::StatusOr<JsonFile> Object(const std::string& field) const {
    if (!root_.at(field).is_object()) return Error(field, "must be an object");
    return JsonFile(absl::StrCat(path_, ": ", field), root_.at(field));
  }

 private:
  JsonFile(std::string path, json root) : path_(std::move(path)), root_(std::move(root)) {}

  std::string path_;
  json root_;
};

absl::StatusOr<DualChunkConfig> ReadDualChunk(const JsonFile& file) {
  DualChunkConfig config;
  ASSIGN_OR_RETURN(config.chunk_size, file.Int("chunk_size", 1, kMaxDimension));
  ASSIGN_OR_RETURN(config.local_size, file.Int("local_size", 1, kMaxDimension));
  ASSIGN_OR_RETURN(config.original_max_position_embeddings,
                   file.Int("original_max_position_embeddings", 0, kMaxDimension));
  if (config.local_size >= config.chunk_size || config.chunk_len() % kKvBlockTokens != 0) {
    return file.Error("chunk_size - local_size",
                      absl::StrCat("is ", config.chunk_len(), ", must be a positive multiple of ",
                                   kKvBlockTokens));
  }
  return config;
}

// What a Qwen2 configuration may name that this program does not do.
absl::Status CheckSupported(const JsonFile& file) {
  if (file.Text("model_type") != "qwen2") {
    return file.Unsupported("model_type",
                            absl::StrCat("is \"", file.Text("model_type"), "\", supported: qwen2"));
  }
  if (file.Has("architectures") &&
      file.Text("architectures").find("\"Qwen2ForCausalLM\"") == std::string::npos) {
    return file.Unsupported("architectures", absl::StrCat("is ", file.Text("architectures"),
                                                          ", supported: Qwen2ForCausalLM"));
  }
  for (const char* field : {"rope_scaling", "quantization_config"}) {
    if (file.Has(field)) {
      return file.Unsupported(field, absl::StrCat("is ", file.Text(field), ", supported: null"));
    }
  }
  ASSIGN_OR_RETURN(const bool sliding, file.Bool("use_sliding_window", false));
  if (sliding) return file.Unsupported("use_sliding_window", "is true, supported: false");
  if (file.Has("hidden_act") && file.Text("hidden_act") != "silu") {
    return file.Unsupported("hidden_act",
                            absl::StrCat("is \"", file.Text("hidden_act"), "\", supported: silu"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelConfig> ModelConfig::Load(const std::string& model_dir) {
  ASSIGN_OR_RETURN(const JsonFile file, JsonFile::Read(model_dir + "/config.json"));
  RETURN_IF_ERROR(CheckSupported(file));
  ModelConfig config;
  ASSIGN_OR_RETURN(config.num_layers, file.Int("num_hidden_layers", 1, 1024));
  ASSIGN_OR_RETURN(config.hidden_size, file.Int("hidden_size", 1, kMaxDimension));
  ASSIGN_OR_RETURN(config.intermediate_size, file.Int("intermediate_size", 1, kMaxDimension));
  ASSIGN_OR_RETURN(config.num_heads, file.Int("num_attention_heads", 1, 1024));
  config.num_kv_heads = config.num_heads;
  if (file.Has("num_key_value_heads")) {
    ASSIGN_OR_RETURN(config.num_kv_heads, file.Int("num_key_value_heads", 1, 1024));
  }
  if (config.num_heads % config.num_kv_heads != 0) {
    return file.Error("num_key_value_heads",
                      absl::StrCat("is ", config.num_kv_heads, ", must divide num_attention_heads ",
                                   config.num_heads));
  }
  if (file.Has("head_dim")) {
    ASSIGN_OR_RETURN(config.head_dim, file.Int("head_dim", 1, 1024));
  } else if (config.hidden_size % config.num_heads == 0) {
    config.head_dim = config.hidden_size / config.num_heads;
  } else {
    return file.Error("head_dim",
                      absl::StrCat("is missing and hidden_size ", config.hidden_size,
                                   " is no multiple of num_attention_heads ", config.num_heads));
  }
  if (config.head_dim % 2 != 0) {
    return file.Error("head_dim", absl::StrCat("is ", config.head_dim, ", must be even"));
  }
  ASSIGN_OR_RETURN(config.vocab_size, file.Int("vocab_size", 1, kMaxDimension));
  ASSIGN_OR_RETURN(config.max_position_embeddings,
                   file.Int("max_position_embeddings", 1, kMaxDimension));
  ASSIGN_OR_RETURN(config.rope_theta, file.Number("rope_theta", 1.0, 1e12));
  ASSIGN_OR_RETURN(config.rms_norm_eps, file.Number("rms_norm_eps", 1e-12, 1.0));
  ASSIGN_OR_RETURN(config.tie_word_embeddings, file.Bool("tie_word_embeddings", false));
  if (file.Has("dual_chunk_attention_config")) {
    ASSIGN_OR_RETURN(const JsonFile dual_chunk, file.Object("dual_chunk_attention_config"));
    ASSIGN_OR_RETURN(config.dual_chunk, ReadDualChunk(dual_chunk));
  }
  return config;
}

absl::StatusOr<GenerationDefaults> GenerationDefaults::Load(const std::string& model_dir) {
  GenerationDefaults defaults;
  absl::StatusOr<JsonFile> file = JsonFile::Read(model_dir + "/generation_config.json");
  if (absl::IsNotFound(file.status())) {
    ASSIGN_OR_RETURN(const JsonFile config, JsonFile::Read(model_dir + "/config.json"));
    ASSIGN_OR_RETURN(defaults.eos_token_ids, config.TokenIds("eos_token_id"));
    return defaults;
  }
  RETURN_IF_ERROR(file.status());
  ASSIGN_OR_RETURN(defaults.do_sample, file->Bool("do_sample", false));
  if (file->Has("temperature")) {
    ASSIGN_OR_RETURN(defaults.temperature, file->Number("temperature", 0, 2));
  }
  if (file->Has("top_p")) {
    ASSIGN_OR_RETURN(defaults.top_p, file->Number("top_p", 1e-6, 1));
  }
  if (file->Has("top_k")) {
    ASSIGN_OR_RETURN(defaults.top_k, file->Int("top_k", 0, kMaxDimension));
  }
  if (file->Has("repetition_penalty")) {
    ASSIGN_OR_RETURN(defaults.repetition_penalty, file->Number("repetition_penalty", 0.01, 10));
  }
  ASSIGN_OR_RETURN(defaults.eos_token_ids, file->TokenIds("eos_token_id"));
  return defaults;
}

}  // namespace longhaul
