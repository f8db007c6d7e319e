#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "common/model_config.h"
#include "common/planning/gpu_costs.h"
#include "common/planning/prefill_costs.h"
#include "common/planning/sparse_settings.h"

namespace longhaul::planning {

// What prefill chunks of a model cost on pipeline stages of one GPU each, with exact or sparse
// attention and bf16 weights, cache and activations: for each layer of the stage four products, the
// elementwise passes between them, attention of the chunk over its history and over itself; on the
// last stage, for the last chunk, the head for one token; and the overhead of each unit.
//
// A chunk that takes a stage longer than `max_step_seconds` is cut between layers into more units;
// if a single layer does, it may not be run. Thread-compatible.
class GpuPrefillCosts final : public PrefillCosts {
 public:
  // `layers` of each stage, each > 0, their sum the model's (CHECK). `max_step_seconds` > 0, may be
  // infinite.
  GpuPrefillCosts(const ModelConfig& model, const GpuCosts& gpu, std::vector<int> layers,
                  double max_step_seconds, std::optional<SparseSettings> sparse = std::nullopt);

  int num_stages() const override { return static_cast<int>(layers_.size()); }
  double StageSeconds(int stage, const Chunk& chunk, bool last) const override;
  double SendSeconds(const Chunk& chunk) const override;

  int num_layers() const { return model_.num_layers; }
  // The parts of StageSeconds: of a unit, of the head for one token, of one layer for a chunk.
  double overhead_seconds() const { return gpu_.step_overhead_seconds; }
  double HeadSeconds() const;
  double LayerSeconds(const Chunk& chunk) const;

 private:
  // The parts of a layer's time that depend on the chunk's length alone.
  struct LengthTerms {
    double linear_seconds = 0;     // products and elementwise passes
    double causal_seconds = 0;     // attention over the chunk itself
    double flops_per_key = 0;      // of attention over the history
    double tiles = 0;              // of attention's rows
    double tile_fill = 0;          // rows / rows of those tiles
    double seconds_per_range = 0;  // to write and read partial results
  };

  LengthTerms TermsOf(int64_t count) const;
  LengthTerms FindTerms(int64_t count) const;  // the same, looked up if it can be
  double ProductSeconds(int64_t rows, int64_t inner, int64_t outer) const;
  double HistorySeconds(const LengthTerms& terms, int64_t history) const;
  double SparseAttentionSeconds(const Chunk& chunk) const;

  const ModelConfig model_;
  const GpuCosts gpu_;
  const std::vector<int> layers_;
  const double max_step_seconds_;
  const std::optional<SparseSettings> sparse_;
  std::vector<LengthTerms> by_blocks_;  // of chunks of so many blocks, computed once
};

}  // namespace longhaul::planning
