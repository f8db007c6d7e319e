#pragma once

#include <cstdint>
#include <optional>
#include <random>
#include <vector>

#include "common/types.h"
#include "worker/step_plan.h"

namespace longhaul::testing {

// A sequence all of whose tokens are known before it runs: a prompt and greedy output.
struct KnownSequence {
  SequenceId id = 0;
  std::vector<TokenId> tokens;  // the prompt, then the output but its last token
  int32_t prompt_tokens = 0;
  std::optional<int32_t> prompt_logprobs;
};

// Step plans that run the sequences in some way that a scheduler might choose: chunks of any size,
// several sequences a unit, units cut between layers with others in between, blocks of ended
// sequences used again. The prompt's last row and every row behind it are sampled.
//
// `num_blocks` hold the longest of the sequences at least. Steps run from `first_step` on.
std::vector<worker::StepPlan> RandomPlans(const std::vector<KnownSequence>& sequences,
                                          int32_t num_layers, int32_t num_blocks, StepId first_step,
                                          std::mt19937_64& random);

// Each sequence by itself, its prompt in one go.
std::vector<worker::StepPlan> PlainPlans(const std::vector<KnownSequence>& sequences,
                                         int32_t num_layers, StepId first_step);

}  // namespace longhaul::testing
