#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/clock.h"
#include "common/types.h"
#include "worker/rank/kv_mover.h"
#include "worker/rank/pipeline_stage.h"
#include "worker/rank/prompt_scorer.h"
#include "worker/rank/sampler.h"
#include "worker/step_plan.h"

namespace longhaul::worker::rank {

// Executes step plans in order on one rank, and keeps what a rank must remember of a sequence
// between plans: its block table, how far it has come, its sampler's state.
//
// Knows nothing of streams, threads or the leader. Owned by the executor thread. Every plan is
// checked against that state before its parts run: step numbers without gaps, known sequences,
// contiguous positions, blocks and tokens that exist, cut units that continue where they stopped.
// A move of a block that fails is no error: the result names it.
// Errors: kInvalidArgument for a plan that breaks these rules; what PipelineStage returns. After an
// error the rank's state no longer follows the leader's: it must exit.
class Executor {
 public:
  // `sampler` where stage.has_logits(), `scorer` where stage.is_last(), else null. Without a
  // `mover` plans have no moves. All outlive the executor.
  Executor(PipelineStage& stage, Sampler* sampler, PromptScorer* scorer, const Clock& clock,
           KvMover* mover = nullptr);

  // `stop` is looked at between moves and between layers: kCancelled when it is set.
  absl::StatusOr<StepResult> Execute(const StepPlan& plan, const std::atomic<bool>& stop);

  size_t num_sequences() const { return sequences_.size(); }

 private:
  struct Sequence {
    int64_t prompt_tokens = 0;
    std::optional<int32_t> prompt_logprobs;
    int64_t num_tokens = 0;  // positions cached, or being computed by a cut unit
    int32_t cut_layer = 0;   // where the unit that holds this sequence was cut; 0 = none
    int64_t cut_begin = 0;   // its slice's first position
    uint64_t last_unit = 0;  // by count: a unit has one slice of a sequence
    std::vector<BlockId> block_table;
  };

  absl::Status Start(const SequenceStart& start);
  absl::Status Run(const Unit& unit, const std::atomic<bool>& stop, StepResult& result);
  // Checks a slice and updates its sequence.
  absl::Status Advance(const Unit& unit, const Slice& slice);
  absl::Status CheckNextPromptToken(const Slice& slice, const Sequence& sequence) const;
  absl::Status AppendBlocks(const Slice& slice, Sequence& sequence) const;
  absl::Status CheckTokens(const char* what, const std::vector<TokenId>& ids) const;

  PipelineStage& stage_;
  Sampler* const sampler_;
  PromptScorer* const scorer_;
  const Clock& clock_;
  KvMover* const mover_;
  StepId last_step_ = 0;
  uint64_t num_units_ = 0;  // run so far, the current one included
  std::unordered_map<SequenceId, Sequence> sequences_;
};

}  // namespace longhaul::worker::rank
