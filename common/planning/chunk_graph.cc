#include "common/planning/chunk_graph.h"

#include <algorithm>

namespace longhaul::planning {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// The first and the last of the slowest stages.
struct SlowStages {
  int first = 0;
  int last = 0;
  bool all = false;
};

SlowStages SlowestOf(const PrefillCosts& costs, const Chunk& chunk) {
  std::vector<double> seconds;
  for (int stage = 0; stage < costs.num_stages(); ++stage) {
    seconds.push_back(costs.StageSeconds(stage, chunk, /*last=*/false));
  }
  const double slowest = *std::max_element(seconds.begin(), seconds.end());
  const auto is_slow = [slowest](double s) { return s >= slowest * (1 - 1e-9); };
  const auto first = std::find_if(seconds.begin(), seconds.end(), is_slow);
  const auto behind_last = std::find_if(seconds.rbegin(), seconds.rend(), is_slow).base();
  return {.first = static_cast<int>(first - seconds.begin()),
          .last = static_cast<int>(behind_last - seconds.begin()) - 1,
          .all = std::all_of(seconds.begin(), seconds.end(), is_slow)};
}

}  // namespace

ChunkGraph::ChunkGraph(const PrefillCosts& costs, int64_t prompt_tokens, const CutRules& rules)
    : positions_(CutPositions(prompt_tokens, rules)) {
  const SlowStages slow =
      SlowestOf(costs, {.begin = 0, .count = std::min(prompt_tokens, rules.block_tokens)});
  equal_stages_ = slow.all;
  first_ending_ = positions_.size();
  row_begin_.reserve(positions_.size());
  for (size_t i = 0; i + 1 < positions_.size(); ++i) {
    row_begin_.push_back(seconds_.size());
    const int64_t furthest = FurthestEnd(positions_[i], prompt_tokens, rules);
    for (size_t j = i + 1; j < positions_.size() && positions_[j] <= furthest; ++j) {
      const Chunk chunk = {.begin = positions_[i], .count = positions_[j] - positions_[i]};
      const bool ends = j + 1 == positions_.size();
      const double seconds = costs.StageSeconds(slow.first, chunk, ends);
      if (seconds == kInfinity) break;
      seconds_.push_back(seconds);
      if (i == 0) {
        fill_.push_back(0);
        for (int stage = 0; stage < slow.first; ++stage) {
          fill_.back() += costs.StageSeconds(stage, chunk, ends);
        }
      }
      if (ends) {
        first_ending_ = std::min(first_ending_, i);
        drain_.push_back(0);
        for (int stage = slow.last + 1; stage < costs.num_stages(); ++stage) {
          drain_.back() += costs.StageSeconds(stage, chunk, ends);
        }
      }
    }
  }
  row_begin_.push_back(seconds_.size());
}

ChunkGraph::Path ChunkGraph::Shortest(double cap) const {
  const size_t n = positions_.size();
  std::vector<double> best(n, kInfinity);
  std::vector<size_t> from(n, 0);
  best[0] = 0;
  for (size_t i = 0; i + 1 < n; ++i) {
    if (best[i] == kInfinity) continue;
    const double* row = seconds_.data() + row_begin_[i];
    const size_t size = row_begin_[i + 1] - row_begin_[i];
    for (size_t k = 0; k < size; ++k) {
      if (row[k] > 2 * cap) break;  // longer ones take more than the cap as well
      if (row[k] > cap) continue;
      const size_t j = i + 1 + k;
      double sum = best[i] + row[k];
      if (i == 0) sum += fill_[k];
      if (j + 1 == n) sum += drain_[i - first_ending_];
      if (sum < best[j]) {
        best[j] = sum;
        from[j] = i;
      }
    }
  }
  Path path = {.seconds = best[n - 1], .longest = 0, .chunks = {}};
  if (path.seconds == kInfinity) return path;
  for (size_t j = n - 1; j > 0; j = from[j]) {
    const size_t i = from[j];
    path.chunks.push_back({.begin = positions_[i], .count = positions_[j] - positions_[i]});
    path.longest = std::max(path.longest, seconds_[row_begin_[i] + (j - i - 1)]);
  }
  std::reverse(path.chunks.begin(), path.chunks.end());
  return path;
}

}  // namespace longhaul::planning
