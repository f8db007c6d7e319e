#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "common/planning/chunk_plan.h"
#include "common/planning/cut_rules.h"
#include "common/planning/prefill_costs.h"

namespace longhaul::planning {

// The chunks with the least simulated time to first token.
//
// With equal stages that time is the sum of the chunks' stage seconds and (stages - 1) times the
// longest (sends aside), so under a cap on a chunk's stage seconds the best cut is a shortest path
// over the cut positions (ChunkGraph), found exactly. The search tries caps from the largest down
// to where the sum alone is worse than the best plan yet, then finer near the best, every candidate
// judged by the simulation. Then single cuts of the best one are tuned (CutTuner), for stages that
// differ and for what sends and few plans in flight cost; fixed chunks are taken if they are
// quicker all the same. Where all caps can be tried (up to 4,096 possible chunks), stages are equal
// and nothing waits for sends or plans, the result is the optimum. Under 1 s for 1M tokens in
// blocks of 256.
//
// A longer chunk at the same begin must not be cheaper than half a shorter one, and a chunk that
// may not be run must not become one that may by growing. kInvalidArgument if the prompt cannot be
// cut.
absl::StatusOr<ChunkPlan> FastestChunks(const PrefillCosts& costs, int64_t prompt_tokens,
                                        const CutRules& rules, int plans_in_flight);

// The best plan whose chunks all have the same length, but for the last and for cuts at pieces and
// segments.
absl::StatusOr<ChunkPlan> FastestFixedChunks(const PrefillCosts& costs, int64_t prompt_tokens,
                                             const CutRules& rules, int plans_in_flight);

}  // namespace longhaul::planning
