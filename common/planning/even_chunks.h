#pragma once

#include <cstdint>

#include "common/cost_model.h"
#include "common/planning/cut_rules.h"

namespace longhaul::planning {

// Seconds on a stage that each chunk should take, so that tokens [begin, end) of a prompt go
// soonest through `num_stages` equal stages: what the engine can afford to ask at every step, where
// FastestChunks is a search over the whole prompt. `cost` is one stage's; TokensWithin gives a
// chunk's tokens. Infinite for one stage. Pure, O(1).
//
// M chunks of equal time, with W seconds of work and an overhead o each, have their first token
// after (M + stages - 1) x (o + W / M) seconds, least at a chunk's o + sqrt(W o / (stages - 1)).
double EvenChunkSeconds(const CostCoefficients& cost, int num_stages, int64_t begin, int64_t end);

// Tokens of the chunk that begins at `begin` < prompt_tokens, each chunk of the prompt taking
// EvenChunkSeconds: the nearest whole number of blocks, at least one, at most max_chunk_tokens and
// the rest of the prompt. Coefficients of zero, which is what an unknown model says, give the most.
// Dense work only: pieces and segments of `rules` are not looked at.
int64_t EvenChunkTokens(const CostCoefficients& cost, int num_stages, int64_t begin,
                        int64_t prompt_tokens, const CutRules& rules);

}  // namespace longhaul::planning
