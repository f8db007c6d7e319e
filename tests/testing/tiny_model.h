#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/model_config.h"
#include "worker/model/safetensors.h"

namespace longhaul::testing {

// Makes the bytes of a safetensors file.
class SafetensorsBuilder {
 public:
  // `data` as it lies in the file.
  void Add(const std::string& name, worker::model::StoredType type, std::vector<int64_t> shape,
           std::string data);
  std::string Build() const;

  // A file with this header, whatever it says, and this data.
  static std::string Raw(const std::string& header, const std::string& data);

 private:
  std::string header_;  // without its braces
  std::string data_;
};

// A small Qwen2 model with random weights: E = 96, I = 160, heads of 64, 3 query heads a KV head,
// chunk_size 768, local_size 256 (segments of 512), original_max 600. Runs in milliseconds,
// sanitizers included.
struct TinyModel {
  uint64_t seed = 1;
  bool tied = false;
  int num_files = 1;                                                 // above 1: with an index
  worker::model::StoredType type = worker::model::StoredType::kF32;  // or kBF16, kF16
  int32_t num_layers = 3;
  int32_t num_kv_heads = 1;
  int32_t vocab_size = 300;  // or more
  int32_t max_position_embeddings = 4096;

  ModelConfig Config() const;
  // Values of a tensor of Qwen2Tensors(Config()), exact in every type above.
  std::vector<float> Values(const std::string& name, int64_t size) const;
  // Writes config.json and the safetensors files.
  void Write(const std::string& model_dir) const;
};

}  // namespace longhaul::testing
