#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "common/planning/cut_rules.h"
#include "common/planning/prefill_costs.h"

namespace longhaul::planning {

// Every chunk that a prompt may be cut into, with its seconds on the slowest stage: a graph over
// the cut positions in which a path from 0 to the prompt's end is a way to cut. Immutable;
// thread-compatible. 8 bytes a chunk: 16 MB for 1M tokens in blocks of 256, chunks up to 131,072.
class ChunkGraph {
 public:
  // The order of stages by speed must not depend on the chunk.
  ChunkGraph(const PrefillCosts& costs, int64_t prompt_tokens, const CutRules& rules);

  size_t num_chunks() const { return seconds_.size(); }
  // Whether all stages are as slow as the slowest.
  bool equal_stages() const { return equal_stages_; }

  struct Path {
    // On the slowest stage, with the first chunk on the stages before it and the last one on those
    // behind: no pipeline is done sooner. Infinite: there is no path.
    double seconds = std::numeric_limits<double>::infinity();
    double longest = 0;  // seconds of a chunk on the slowest stage
    std::vector<Chunk> chunks;
  };

  // The shortest path of chunks that take at most `cap` seconds on the slowest stage.
  Path Shortest(double cap) const;

 private:
  const std::vector<int64_t> positions_;
  std::vector<size_t> row_begin_;  // of a position's chunks in seconds_; one more at the end
  std::vector<double> seconds_;    // by begin, then by end
  std::vector<double> fill_;       // of the chunks from 0, on the stages before the slowest
  std::vector<double> drain_;      // of those that end the prompt, on the stages behind
  size_t first_ending_ = 0;        // first position from which a chunk ends the prompt
  bool equal_stages_ = false;
};

}  // namespace longhaul::planning
