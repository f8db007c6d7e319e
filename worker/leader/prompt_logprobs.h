#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "worker/leader/batch_scheduler.h"
#include "worker/leader/event_log.h"
#include "worker/step_plan.h"

namespace longhaul::worker::leader {

// What the ranks say of prompts' logprobs, held against what a step asked for. Pure functions.

// Tokens of one PromptLogprobsEvent at most: 0.3 MB on the wire with 20 alternatives each.
inline constexpr int64_t kMaxPromptLogprobsPerEvent = 1024;

// kInvalidArgument, with what is wrong, unless `result` has for each slice of `step` that asked for
// logprobs exactly those of the prompt tokens behind its rows (or the sequence's error), and no
// others. Of sequences that have ended since, nothing is known but that they asked.
absl::Status CheckPromptLogprobs(const PlannedStep& step, const StepResult& result,
                                 int32_t vocab_size);

// A checked answer as events in order, without the positions below `told`.
std::vector<PromptLogprobsEvent> SplitPromptLogprobs(const SequencePromptLogprobs& logprobs,
                                                     int64_t told);

}  // namespace longhaul::worker::leader
