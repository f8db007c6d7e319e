#pragma once

#include <cstdint>

#include "common/cost_model.h"

namespace longhaul::worker::leader {

// Decides how many prompt tokens one sequence gets in one unit. The only place where the size of a
// prefill chunk is chosen. Pure; thread-compatible. Microseconds a call.
class ChunkPlanner {
 public:
  // `block_tokens` > 0: a chunk ends at a multiple of it unless it ends the prompt, so that dense
  // work is cut at KV blocks. `num_stages` > 0: pipeline stages, taken to be equal.
  explicit ChunkPlanner(int32_t block_tokens, int num_stages = 1)
      : block_tokens_(block_tokens), num_stages_(num_stages) {}

  // Tokens of the next chunk of a prompt of which [0, begin) is planned, within the `budget` tokens
  // that are left in the unit. 0 if no aligned chunk fits; begin < prompt_tokens.
  //
  // With more than one stage no longer than what a stage's costs make best for the time to first
  // token (planning::EvenChunkTokens); a chunk shrinks as its history grows, so that every stage
  // has work of the same length. Costs of zero, which is what an unknown model says, set no such
  // limit.
  int64_t NextChunk(int64_t begin, int64_t prompt_tokens, int64_t budget,
                    const CostCoefficients& stage_cost = {}) const;

 private:
  const int32_t block_tokens_;
  const int num_stages_;
};

}  // namespace longhaul::worker::leader
