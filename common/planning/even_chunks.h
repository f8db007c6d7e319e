#pragma once

#include <cstdint>

#include "common/cost_model.h"

namespace longhaul::planning {

// Seconds on a stage that each chunk should take, so that tokens [begin, end) of a prompt go
// soonest through `num_stages` equal stages: what the engine can afford to ask at every step, where
// FastestChunks is a search over the whole prompt. `cost` is one stage's; TokensWithin gives a
// chunk's tokens. Infinite for one stage. Pure, O(1).
//
// M chunks of equal time, with W seconds of work and an overhead o each, have their first token
// after (M + stages - 1) x (o + W / M) seconds, least at a chunk's o + sqrt(W o / (stages - 1)).
double EvenChunkSeconds(const CostCoefficients& cost, int num_stages, int64_t begin, int64_t end);

}  // namespace longhaul::planning
