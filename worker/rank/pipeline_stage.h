#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/types.h"
#include "worker/backend/backend.h"
#include "worker/model/qwen2.h"
#include "worker/rank/kv_cache.h"
#include "worker/rank/stage_link.h"
#include "worker/tensor.h"

namespace longhaul::worker::rank {

// A unit as a stage sees it. Slices and sequences correspond; their spans live until Run returns.
struct StageUnit {
  int32_t layer_begin = 0;
  int32_t layer_end = 0;
  std::span<const SequenceId> sequences;
  std::span<const model::ModelSlice> slices;
};

// The layers of one pipeline stage with their KV cache: takes from each unit the layers that are
// its own, receives the residual stream from the stage before and sends it to the one behind. Of a
// stage with several tensor-parallel ranks this is one rank's shard; each sends its stream, the
// same on all of them, to the rank with its number in the next stage.
//
// Activations of a unit that was cut between layers stay resident until the unit goes on; other
// units may run in between (short requests do not wait for a long one). They travel between stages
// in the part of a unit that crosses the border, so a unit cut at the border stays resident before
// it. Where a unit is cut changes no bit. Owned by the executor thread. Errors: kInternal for a
// unit that continues nothing resident, kResourceExhausted for more than kMaxResident cut units,
// kCancelled when `stop` was set; what model and communicator return. After an error peers may wait
// for this rank, until their communicators time out or are aborted.
class PipelineStage {
 public:
  // Units that may be cut at the same time.
  static constexpr size_t kMaxResident = 4;

  // `cache` has the KV heads of the model's shard.
  PipelineStage(std::unique_ptr<model::Qwen2> model, KvCache cache, StageLink link);

  const ModelConfig& config() const { return model_->config(); }
  const KvCache& cache() const { return cache_; }
  bool is_last() const { return model_->range().layer_end == config().num_layers; }
  // Whether this is the rank of its group that has the logits.
  bool has_logits() const { return is_last() && model_->range().tensor_parallel_rank == 0; }

  // Runs the unit's layers that are this stage's; `stop` is looked at between layers.
  absl::Status Run(const StageUnit& unit, const std::atomic<bool>& stop);

  // Logits [rows, V] of some rows of the unit that Run completed last. Last stage only, whose
  // tensor-parallel ranks must make the same calls; an empty view unless has_logits(). Valid until
  // the next call.
  absl::StatusOr<TensorView> Logits(std::span<const int64_t> rows);

  // Waits until the device has done all of it but what it still sends. Returns how long it waited
  // for other stages since the last call.
  absl::StatusOr<absl::Duration> Finish();

  // Drops the resident activations of cut units that hold this sequence.
  void Drop(SequenceId sequence);

 private:
  struct Resident {
    std::vector<SequenceId> sequences;
    std::vector<int64_t> begins;  // position_begin of each slice
    int32_t next_layer = 0;
    model::Activations activations;
    std::unique_ptr<backend::Mark> sent;  // of what the buffers held last; null: nothing was
  };

  bool IsSame(const Resident& resident, const StageUnit& unit) const;
  // Takes over the unit's first activations: embeds, or receives.
  absl::StatusOr<Resident> Begin(const StageUnit& unit);
  // Takes back what waits at `layer`.
  absl::StatusOr<Resident> TakeCut(const StageUnit& unit, int32_t layer);

  const std::unique_ptr<model::Qwen2> model_;
  const KvCache cache_;
  StageLink link_;
  std::vector<Resident> cut_;     // waiting to go on
  Resident completed_;            // the last unit that left this stage
  std::vector<Resident> unused_;  // their buffers are reused
};

}  // namespace longhaul::worker::rank
