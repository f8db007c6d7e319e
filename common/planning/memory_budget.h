#pragma once

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "common/model_config.h"

namespace longhaul::planning {

// Which part of a model a rank holds.
struct RankPart {
  int32_t num_layers = 0;
  bool has_embedding = true;  // of the first stage
  bool has_head = true;       // of the last stage
  int32_t shard = 0;          // of num_shards
  int32_t num_shards = 1;     // tensor parallelism; divides KV heads and intermediate size
  int32_t num_stages = 1;     // of the group
};

// What a rank is to hold on a CUDA device, and how much of the device it may take.
struct MemoryLimits {
  int64_t device_bytes = 0;             // free on the device once the CUDA runtime is there
  double utilization = 0.92;            // part of them that the rank may take, (0, 1]
  int64_t max_model_len = 0;            // tokens of the longest request, prompt and output
  int64_t max_num_batched_tokens = 0;   // tokens of a unit
  int64_t max_num_seqs = 64;            // requests that run at the same time
  int64_t runtime_bytes = 200'000'000;  // of them, for kernels that the runtime loads later
  int64_t element_bytes = 2;            // of weights and activations
  int64_t kv_element_bytes = 2;
};

// KV kept for short requests beside one of full length, tokens.
inline constexpr int64_t kShortRequestTokens = 32'768;
// Highest utilization worth asking for.
inline constexpr double kMaxUtilization = 0.98;

// Bytes that a rank takes of its device's memory, by what for: upper bounds, so that nothing that
// it allocates later fails.
struct MemoryBudget {
  int64_t usable = 0;       // utilization x device_bytes
  int64_t weights = 0;      // of the rank's part
  int64_t activations = 0;  // of units: residual streams, matrices of a layer, plans of rows
  int64_t logits = 0;       // logits, sampling and logprobs
  int64_t workspaces = 0;   // of linear layers and decode attention; of transfers between ranks
  int64_t runtime = 0;      // runtime_bytes, and what is lost to whole pages
  int64_t kv_block = 0;     // a block of kKvBlockTokens tokens in the rank's layers and heads
  int64_t longest_blocks = 0;
  int64_t short_blocks = 0;

  // All but KV.
  int64_t Fixed() const { return weights + activations + logits + workspaces + runtime; }
  int64_t Needed() const { return Fixed() + (longest_blocks + short_blocks) * kv_block; }
  bool Fits() const { return Needed() <= usable; }
  // What a rank can offer: all that is left, whatever is needed.
  int64_t KvBlocks() const;
};

// Pure. Sizes > 0 (CHECK).
MemoryBudget BudgetMemory(const ModelConfig& model, const RankPart& part,
                          const MemoryLimits& limits);

// Of the group's ranks, that which has room for the fewest KV blocks: as all ranks have the same
// number of blocks, it decides. `layers` of each stage.
MemoryBudget BudgetTightestRank(const ModelConfig& model, std::span<const int> layers,
                                int32_t num_shards, const MemoryLimits& limits);

// kInvalidArgument unless every rank of the group fits: what is missing on the tightest one, and
// for each of the three settings the value that alone would make it fit, if there is one.
absl::Status CheckMemory(const ModelConfig& model, std::span<const int> layers, int32_t num_shards,
                         const MemoryLimits& limits);

}  // namespace longhaul::planning
