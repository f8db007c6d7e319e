#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "common/types.h"
#include "worker/backend/backend.h"
#include "worker/rank/pipeline_stage.h"
#include "worker/step_plan.h"

namespace longhaul::worker::rank {

// Tells how probable the model found a prompt's own tokens: logprobs of the raw logits (as the
// sampler reports them) of each token that follows a row of the unit that has just run. Lives on
// every rank of a group's last stage: all compute the logits together, the one that has them tells.
//
// Logits are computed for some rows at a time, so that memory is bounded whatever the unit's size.
// Which rows are computed together changes no bit. Keeps nothing of a sequence. Owned by the
// executor thread. Errors: kCancelled when `stop` was set; those of the stage and the backend.
class PromptScorer {
 public:
  // Of one tile's logits. At V = 152,064 that is 192 rows, the rows for which the head's weights
  // are read once.
  static constexpr int64_t kMaxLogitsBytes = int64_t{128} << 20;

  // Both outlive the scorer. `max_logits_bytes` is for tests; a tile has one row at least.
  PromptScorer(PipelineStage& stage, backend::Backend& backend,
               int64_t max_logits_bytes = kMaxLogitsBytes);

  // Rows [row_begin, row_begin + next_tokens.size()) of a unit, all of one sequence.
  struct Part {
    SequenceId sequence = 0;
    int64_t row_begin = 0;
    int64_t position_begin = 0;        // of next_tokens[0], > 0
    std::vector<TokenId> next_tokens;  // the tokens that follow the rows; not empty
    int32_t num_top = 0;               // alternatives for each, 0..20
  };
  // Scores the parts, of a sequence each, of the unit that the stage completed last, and, where the
  // stage has the logits, adds their logprobs to `result`, or the sequence's error (a NaN or Inf;
  // nothing more of that sequence).
  absl::Status Score(std::span<const Part> parts, const std::atomic<bool>& stop,
                     StepResult& result);

 private:
  PipelineStage& stage_;
  backend::Backend& backend_;
  const int64_t rows_per_tile_;
};

}  // namespace longhaul::worker::rank
