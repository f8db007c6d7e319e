#include "common/planning/cut_tuner.h"

#include <algorithm>
#include <utility>

namespace longhaul::planning {
namespace {

constexpr int64_t kMostVisits = 4'000'000;

}  // namespace

CutTuner::CutTuner(const PrefillCosts& costs, int64_t prompt_tokens, const CutRules& rules,
                   int plans_in_flight, ChunkPlan plan)
    : costs_(costs),
      prompt_tokens_(prompt_tokens),
      rules_(rules),
      plans_in_flight_(plans_in_flight),
      positions_(CutPositions(prompt_tokens, rules)),
      best_(std::move(plan)) {
  for (const Chunk& chunk : best_.chunks) {
    const auto at = std::lower_bound(positions_.begin(), positions_.end(), chunk.begin);
    cuts_.push_back(static_cast<size_t>(at - positions_.begin()));
  }
  cuts_.push_back(positions_.size() - 1);
}

ChunkPlan CutTuner::Tune() {
  for (bool quicker = true; quicker;) {
    quicker = false;
    for (size_t i = 0; i + 1 < cuts_.size(); ++i) quicker |= TuneAround(i);
  }
  return std::move(best_);
}

bool CutTuner::TuneAround(size_t i) {
  bool quicker = false;
  if (i > 0) {
    for (size_t step = (cuts_[i + 1] - cuts_[i - 1]) / 2; step > 0; step /= 2) {
      quicker |= TryMove(i, cuts_[i] + step) || TryMove(i, cuts_[i] - step);
    }
    std::vector<size_t> dropped = cuts_;
    dropped.erase(dropped.begin() + static_cast<ptrdiff_t>(i));
    if (Try(std::move(dropped))) return true;
  }
  std::vector<size_t> added = cuts_;
  added.insert(added.begin() + static_cast<ptrdiff_t>(i) + 1, (cuts_[i] + cuts_[i + 1]) / 2);
  return Try(std::move(added)) || quicker;
}

bool CutTuner::TryMove(size_t i, size_t to) {
  std::vector<size_t> moved = cuts_;
  moved[i] = to;
  return Try(std::move(moved));
}

bool CutTuner::Try(std::vector<size_t> cuts) {
  visits_ += static_cast<int64_t>(cuts.size()) * costs_.num_stages();
  if (visits_ > kMostVisits) return false;
  std::vector<Chunk> chunks;
  for (size_t i = 0; i + 1 < cuts.size(); ++i) {
    if (cuts[i + 1] <= cuts[i] || cuts[i + 1] >= positions_.size()) return false;
    const int64_t begin = positions_[cuts[i]];
    const int64_t end = positions_[cuts[i + 1]];
    if (end > FurthestEnd(begin, prompt_tokens_, rules_)) return false;
    chunks.push_back({.begin = begin, .count = end - begin});
  }
  PipelineRun run = SimulatePrefill(costs_, chunks, plans_in_flight_);
  if (run.ttft_seconds >= best_.run.ttft_seconds) return false;
  best_ = {.chunks = std::move(chunks), .run = std::move(run)};
  cuts_ = std::move(cuts);
  return true;
}

}  // namespace longhaul::planning
