#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/planning/chunk_plan.h"
#include "common/planning/cut_rules.h"
#include "common/planning/prefill_costs.h"

namespace longhaul::planning {

// Moves, adds and drops single cuts of a plan for as long as the simulation gets quicker by it, or
// until it has visited 4 million chunks and stages (about 0.2 s). One use; thread-compatible.
class CutTuner {
 public:
  // `costs` is borrowed. `plan` keeps the rules and has been simulated.
  CutTuner(const PrefillCosts& costs, int64_t prompt_tokens, const CutRules& rules,
           int plans_in_flight, ChunkPlan plan);

  ChunkPlan Tune();

 private:
  bool TuneAround(size_t i);
  bool TryMove(size_t i, size_t to);
  // Takes these cuts if they are allowed and quicker.
  bool Try(std::vector<size_t> cuts);

  const PrefillCosts& costs_;
  const int64_t prompt_tokens_;
  const CutRules rules_;
  const int plans_in_flight_;
  const std::vector<int64_t> positions_;
  std::vector<size_t> cuts_;  // indices of positions: 0, ..., the last
  ChunkPlan best_;
  int64_t visits_ = 0;
};

}  // namespace longhaul::planning
