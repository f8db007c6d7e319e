#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <random>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/leader/kv_capacity.h"
#include "worker/step_plan.h"

namespace longhaul::testing {

// Ranks whose KV cache holds, instead of keys and values, a hash of all tokens up to each position:
// a block that is not what a sequence takes it for is noticed at once, and the token that is
// sampled depends on every token before it. They hold plans to the rules of
// docs/engine_contracts.md.
class SimulatedRanks {
 public:
  // `failing_moves`: the chance of each copy to fail.
  SimulatedRanks(const worker::leader::KvCapacity& capacity, int32_t num_layers,
                 double failing_moves = 0, uint32_t seed = 1);

  // kInvalidArgument: the plan breaks a rule, or relies on KV that is not there.
  absl::StatusOr<worker::StepResult> Execute(const worker::StepPlan& plan);

  size_t num_sequences() const { return sequences_.size(); }
  int64_t rows_run() const { return rows_run_; }
  int64_t restored_blocks() const { return restored_blocks_; }
  int32_t most_layers_cut() const { return most_parts_; }  // of one unit, in how many parts

  // What `count` tokens they sample behind a prompt, however plans are cut.
  static std::vector<TokenId> Answer(std::span<const TokenId> prompt, int32_t count);

 private:
  using Block = std::vector<uint64_t>;  // [kKvBlockTokens]
  struct Sequence {
    std::vector<TokenId> tokens;  // of all positions that were run or cached
    int64_t prompt_tokens = 0;
    std::vector<TokenId> replayed;
    std::vector<BlockId> table;
    int32_t cut_layer = 0;
    int64_t cut_begin = 0;
    int32_t parts = 0;
  };

  absl::Status Start(const worker::SequenceStart& start);
  absl::Status Run(const worker::Unit& unit, worker::StepResult& result);
  absl::Status Advance(const worker::Unit& unit, const worker::Slice& slice);
  absl::Status Compute(const worker::Slice& slice, Sequence& sequence, worker::StepResult& result);
  std::vector<Block>& Tier(worker::KvMove::Tier tier) { return tiers_[static_cast<size_t>(tier)]; }

  const int32_t num_layers_;
  const double failing_moves_;
  std::mt19937 random_;
  std::vector<Block> tiers_[3];
  std::map<SequenceId, Sequence> sequences_;
  StepId last_step_ = 0;
  int64_t rows_run_ = 0;
  int64_t restored_blocks_ = 0;
  int32_t most_parts_ = 0;
};

}  // namespace longhaul::testing
