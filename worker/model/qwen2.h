#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "common/model_config.h"
#include "common/types.h"
#include "worker/backend/backend.h"
#include "worker/model/shard_sums.h"
#include "worker/model/weights.h"
#include "worker/tensor.h"

namespace longhaul::worker::model {

// How attention treats positions; the same on all ranks of a group.
struct AttentionOptions {
  AttentionTemperature temperature = AttentionTemperature::kPosition;
  bool dual_chunk =
      true;  // false: plain RoPE, without temperature, whatever the configuration says
};

// Consecutive tokens of one sequence in a unit.
struct ModelSlice {
  int64_t position_begin = 0;
  std::span<const TokenId> token_ids;
  int64_t prompt_tokens = 0;             // of the sequence's whole prompt
  std::span<const BlockId> block_table;  // covers every position of the slice
};

// Temperature f of a query at `position` of a sequence whose prompt has `prompt_tokens` tokens. In
// mode `position`, and for generated tokens in both modes, f follows the query's own length
// position + 1; in mode `request` a prompt's rows follow the whole prompt's length (gpu-notes 1).
double TemperatureFactor(const AttentionOptions& options, const ModelConfig& config,
                         int64_t position, int64_t prompt_tokens);

// What a unit's rows are between two of its layers: the residual stream, and the plan of its rows,
// which all layers use. Stays valid between the parts of a unit that was cut between layers.
class Activations {
 public:
  int64_t num_rows() const { return num_rows_; }
  // The residual stream, [T, E]: behind RunLayers complete (what a pipeline stage receives or
  // sends).
  TensorView hidden() const { return hidden_; }

 private:
  friend class Qwen2;
  int64_t num_rows_ = 0;
  int64_t capacity_rows_ = 0;
  backend::DeviceBuffer buffer_;
  TensorView hidden_;  // [T, E]
  std::unique_ptr<backend::RowPlan> plan_;
};

// A Qwen2 decoder on one backend: embedding, layers [begin, end), final norm and head, as far as
// the weights' range holds them. Its matrices are of the backend's activation type, its logits
// fp32.
//
// With several shards (tensor parallelism) each has its heads, its part of the MLP and of the
// vocabulary, and the whole residual stream. What a layer adds to that is summed over the shards,
// so it has the same bits on all of them; all must make the same calls.
//
// Knows nothing of sequences' lives, requests or peers. Owned by the executor thread. A row's
// values do not depend on what else is in its unit, nor on where a unit is cut between layers: bit
// for bit, with the same number of shards. Scratch grows to the largest unit seen and is then
// reused; steps of known size allocate nothing on the device. Errors: those of the backend's ops
// and of the shards' sums.
class Qwen2 {
 public:
  // Rows of the MLP computed at a time: bounds its [rows, 2 I] intermediate.
  static constexpr int64_t kMlpRows = 8192;
  // Fewer may be multiplied by another algorithm, whose bits differ (GemmCuda).
  static constexpr int64_t kFewRows = 128;
  // Several shards: while rows of one tile are summed those of the next are multiplied. So many
  // tiles a unit, of at least so many rows.
  static constexpr int64_t kSumTiles = 4;
  static constexpr int64_t kMinSumRows = 1024;

  // `backend` and `sums` outlive the model; `sums` is null with one shard, and only then. `weights`
  // views memory of `backend`.
  Qwen2(const ModelConfig& config, const AttentionOptions& options, Weights weights,
        backend::Backend& backend, ShardSums* sums = nullptr);

  const ModelConfig& config() const { return config_; }
  const WeightRange& range() const { return weights_.range; }

  // Makes `activations` those of a new unit: sizes it, plans its rows. Its hidden() is then to be
  // filled, by Embed or from the stage before.
  absl::Status Begin(std::span<const ModelSlice> slices, Activations& activations);
  // First stage only.
  absl::Status Embed(Activations& activations);
  // One layer, absolute number within range(), as part of RunLayers. kv is this layer's part of the
  // cache, with the KV heads of this shard.
  absl::Status RunLayer(int32_t layer, const backend::KvLayer& kv, Activations& activations);
  // Layers [begin, end) by calls of RunLayer that `run` makes: where the device has recorded them
  // for a unit of the same kind, without the calls. `run` must do the same work for the same
  // arguments; `kv` is the first layer's. Sums of the last layer are awaited here: hidden() is
  // complete behind RunLayers, not behind each RunLayer.
  absl::Status RunLayers(int32_t begin, int32_t end, const backend::KvLayer& kv,
                         Activations& activations, absl::FunctionRef<absl::Status()> run);
  // Waits until the device has done what RunLayer and Logits enqueued there.
  absl::Status Finish() { return backend_.Finish(); }
  // Last stage only: final norm and head of some rows. The result, [rows, V] of the whole
  // vocabulary, is shard 0's and valid until the next call; the other shards get an empty view.
  absl::StatusOr<TensorView> Logits(std::span<const int64_t> rows, const Activations& activations);

 private:
  // Matrices that live within one layer.
  struct Scratch {
    int64_t capacity_rows = 0;
    backend::DeviceBuffer buffer;
    TensorView norm;  // [T, E]
    TensorView qkv;   // [T, (Hq + 2 Hkv) D]
    backend::RotatedQueries queries;
    TensorView attended;  // [T, Hq D]
    TensorView gate_up;   // [min(T, kMlpRows), 2 I]
    TensorView inner;     // [min(T, kMlpRows), I]
  };
  struct LogitsScratch {
    int64_t capacity_rows = 0;
    backend::DeviceBuffer buffer;
    TensorView norm;                // [S, E]
    TensorView logits;              // [S, V] fp32, on shard 0 only
    TensorView own;                 // [S, V of this shard]; several shards only
    std::vector<TensorView> parts;  // on shard 0 of several: [S, V of each], its own first
  };

  absl::Status ReserveScratch(int64_t rows);
  absl::Status ReserveActivations(int64_t rows, Activations& activations);
  absl::Status ReserveLogits(int64_t rows);
  // A token's row of the embedding: of zeros where it is another shard's.
  TokenId EmbeddingRow(TokenId id) const;
  // Rows that are multiplied at a time, of `num_rows`.
  int64_t TileRows(int64_t num_rows) const;
  // hidden += x weight^T: complete for ops behind Await(slot). Shard 0 alone adds, the others have
  // their products in the place of hidden, then the shards are summed.
  absl::Status TakeUp(TensorView x, const backend::LinearWeight& linear, TensorView hidden,
                      size_t slot);
  // Begins a sum over the shards, if there are several.
  absl::Status BeginSum(TensorView inout, size_t slot);
  absl::Status Await(size_t slot) {
    return sums_ == nullptr ? absl::OkStatus() : sums_->Await(slot);
  }
  // Puts the shards' parts of the first `count` rows of logits side by side on shard 0.
  absl::StatusOr<TensorView> GatherLogits(int64_t count);

  const ModelConfig config_;
  const AttentionOptions options_;
  const backend::RotaryRule rotary_rule_;
  const Weights weights_;
  backend::Backend& backend_;
  ShardSums* const sums_;
  // Of the unit that begins.
  std::vector<float> query_scale_;
  std::vector<TokenId> ids_;
  Scratch scratch_;
  LogitsScratch logits_;
};

}  // namespace longhaul::worker::model
