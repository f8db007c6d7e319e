#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "common/model_config.h"
#include "worker/backend/backend.h"
#include "worker/backend/device_buffer.h"
#include "worker/model/checkpoint.h"
#include "worker/model/weight_source.h"
#include "worker/tensor.h"

namespace longhaul::worker::model {

// Which part of a model a rank holds.
struct WeightRange {
  int32_t layer_begin = 0;
  int32_t layer_end = 0;             // half-open; the stage with layer 0 holds the embedding, the
                                     // stage with the last layer the final norm and the head
  int32_t tensor_parallel_rank = 0;  // shard of heads, intermediate dimension and vocabulary
  int32_t tensor_parallel_size = 1;  // divides num_kv_heads and intermediate_size
};

// First token id of a shard of the vocabulary, V rank / size: it ends where the next one begins.
int64_t VocabularyBegin(const ModelConfig& config, int32_t rank, int32_t size);

// Weights of a Qwen2 model on a backend: those of norms fp32, all others of the backend's
// activation type. With n shards, heads, I and V below are those of a shard; the outputs of `out`
// and `down` are then partial sums, and the embedding has one row more, of zeros: that of the ids
// of other shards.
struct Weights {
  struct Layer {
    TensorView input_norm;           // [1, E]
    backend::LinearWeight qkv;       // [(Hq + 2 Hkv) D, E] with bias: rows of q, then k, then v
    backend::LinearWeight out;       // [E, Hq D]
    TensorView post_attention_norm;  // [1, E]
    backend::LinearWeight gate_up;   // [2 I, E]: rows of gate, then of up
    backend::LinearWeight down;      // [E, I]
  };

  WeightRange range;
  TensorView embedding;       // [V, E]; first stage only
  std::vector<Layer> layers;  // [layer_end - layer_begin]
  TensorView final_norm;      // [1, E]; last stage only
  backend::LinearWeight
      lm_head;        // [V, E]; last stage only; views `embedding` where tied and both here
  int64_t bytes = 0;  // of all buffers

  std::vector<backend::DeviceBuffer> buffers;  // what the views view; before the backend's end
};

// Bytes of a range's weights where activations are of type `dtype`: Weights::bytes, beforehand.
int64_t WeightBytes(const ModelConfig& config, const WeightRange& range, DType dtype);

// A range's weights from any source. Errors: those of the source, kInvalidArgument (a range outside
// the model, a number of shards that does not divide it), kResourceExhausted (memory).
absl::StatusOr<Weights> MakeWeights(const ModelConfig& config, const WeightRange& range,
                                    WeightSource& source, backend::Backend& backend);

// Checks the whole checkpoint against the configuration (see CheckQwen2Tensors), then loads a
// range: the bytes of other stages and shards are not read. A tensor stored in the type that it has
// on the device is copied as it is, others are converted, rounded to nearest even. Errors:
// kInvalidArgument (tensors), those of MakeWeights.
absl::StatusOr<Weights> LoadWeights(const ModelConfig& config, const Checkpoint& checkpoint,
                                    const WeightRange& range, backend::Backend& backend);

}  // namespace longhaul::worker::model
