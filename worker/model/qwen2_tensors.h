#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/model_config.h"
#include "worker/model/checkpoint.h"

namespace longhaul::worker::model {

// A tensor that a Qwen2ForCausalLM checkpoint must have.
struct ExpectedTensor {
  std::string name;
  std::vector<int64_t> shape;
};

// The tensor table of a configuration, in the order of the forward pass.
std::vector<ExpectedTensor> Qwen2Tensors(const ModelConfig& config);

// Name of a tensor of a layer: ("self_attn.q_proj.weight", 3) -> "model.layers.3.self_attn...".
std::string LayerTensorName(int32_t layer, const std::string& suffix);

// kInvalidArgument names file and tensor if one is missing, of another shape, of a type other than
// F32, BF16 and F16, or not in the table.
absl::Status CheckQwen2Tensors(const ModelConfig& config, const Checkpoint& checkpoint);

}  // namespace longhaul::worker::model
