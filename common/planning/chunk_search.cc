#include "common/planning/chunk_search.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/planning/chunk_graph.h"
#include "common/planning/cut_tuner.h"
#include "common/status_macros.h"

namespace longhaul::planning {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr size_t kExhaustiveChunks = 4096;
constexpr double kCoarse = 0.93;  // ratio of a cap to the one before it
constexpr int kFineSteps = 16;    // to either side of the best cap, over one ratio each

absl::Status CannotCut(int64_t prompt_tokens, const CutRules& rules) {
  return absl::InvalidArgumentError(absl::StrCat(
      "a prompt of ", prompt_tokens, " tokens cannot be cut: somewhere no chunk of at most ",
      rules.max_chunk_tokens, " tokens (--max-num-batched-tokens) may be run"));
}

// The best plan of those considered.
class Candidates {
 public:
  Candidates(const PrefillCosts& costs, const ChunkGraph& graph, int plans_in_flight)
      : costs_(costs), graph_(graph), plans_in_flight_(plans_in_flight) {
    best_.run.ttft_seconds = kInfinity;
  }

  // The path under a cap; what it takes at least, and its longest chunk.
  ChunkGraph::Path Consider(double cap) {
    ChunkGraph::Path path = graph_.Shortest(cap);
    if (path.chunks.empty()) return path;
    PipelineRun run = SimulatePrefill(costs_, path.chunks, plans_in_flight_);
    if (run.ttft_seconds < best_.run.ttft_seconds) {
      best_ = {.chunks = path.chunks, .run = std::move(run)};
      best_cap_ = path.longest;
    }
    return path;
  }

  // Caps from the largest down, for as long as a path may still be quicker than the best plan.
  void Descend(double ratio) {
    ChunkGraph::Path path = Consider(kInfinity);
    while (path.seconds < best_.run.ttft_seconds) {
      path = Consider(std::nextafter(path.longest * ratio, 0.0));
    }
  }

  // Caps around the best one, ever closer.
  void Refine(double ratio) {
    for (; ratio < 1 - 1e-6; ratio = std::pow(ratio, 2.0 / kFineSteps)) {
      const double center = best_cap_;
      for (int i = -kFineSteps; i <= kFineSteps; ++i) {
        Consider(center * std::pow(ratio, static_cast<double>(i) / kFineSteps));
      }
    }
  }

  ChunkPlan TakeBest() { return std::move(best_); }

 private:
  const PrefillCosts& costs_;
  const ChunkGraph& graph_;
  const int plans_in_flight_;
  ChunkPlan best_;
  double best_cap_ = 0;
};

}  // namespace

absl::StatusOr<ChunkPlan> FastestChunks(const PrefillCosts& costs, int64_t prompt_tokens,
                                        const CutRules& rules, int plans_in_flight) {
  const ChunkGraph graph(costs, prompt_tokens, rules);
  Candidates candidates(costs, graph, plans_in_flight);
  if (graph.num_chunks() <= kExhaustiveChunks) {
    candidates.Descend(1.0);
  } else if (costs.num_stages() == 1) {
    candidates.Consider(kInfinity);
  } else {
    candidates.Descend(kCoarse);
    candidates.Refine(kCoarse);
  }
  ChunkPlan best = candidates.TakeBest();
  if (best.chunks.empty()) return CannotCut(prompt_tokens, rules);
  if (costs.num_stages() == 1) return best;
  best = CutTuner(costs, prompt_tokens, rules, plans_in_flight, std::move(best)).Tune();
  // Few plans in flight make stages wait for each other where lengths vary: equal ones may win.
  ASSIGN_OR_RETURN(ChunkPlan fixed,
                   FastestFixedChunks(costs, prompt_tokens, rules, plans_in_flight));
  return fixed.run.ttft_seconds < best.run.ttft_seconds ? fixed : best;
}

absl::StatusOr<ChunkPlan> FastestFixedChunks(const PrefillCosts& costs, int64_t prompt_tokens,
                                             const CutRules& rules, int plans_in_flight) {
  const std::vector<int64_t> positions = CutPositions(prompt_tokens, rules);
  ChunkPlan best;
  best.run.ttft_seconds = kInfinity;
  const int64_t most = std::min(rules.max_chunk_tokens, prompt_tokens + rules.block_tokens - 1);
  for (int64_t size = rules.block_tokens; size <= most; size += rules.block_tokens) {
    std::vector<Chunk> chunks;
    int64_t begin = 0;
    while (begin < prompt_tokens) {
      const int64_t limit = std::min(begin + size, FurthestEnd(begin, prompt_tokens, rules));
      const int64_t end = *(std::upper_bound(positions.begin(), positions.end(), limit) - 1);
      if (end <= begin) break;  // a piece is longer
      chunks.push_back({.begin = begin, .count = end - begin});
      begin = end;
    }
    if (begin < prompt_tokens) continue;
    PipelineRun run = SimulatePrefill(costs, chunks, plans_in_flight);
    if (run.ttft_seconds < best.run.ttft_seconds) {
      best = {.chunks = std::move(chunks), .run = std::move(run)};
    }
  }
  if (best.chunks.empty()) return CannotCut(prompt_tokens, rules);
  return best;
}

}  // namespace longhaul::planning
