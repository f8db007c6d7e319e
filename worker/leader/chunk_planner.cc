#include "worker/leader/chunk_planner.h"

#include <algorithm>

#include "common/logging.h"
#include "common/planning/even_chunks.h"

namespace longhaul::worker::leader {

int64_t ChunkPlanner::NextChunk(int64_t begin, int64_t prompt_tokens, int64_t budget,
                                const CostCoefficients& stage_cost) const {
  CHECK(begin >= 0 && begin < prompt_tokens)
      << "begin=" << begin << " prompt_tokens=" << prompt_tokens;
  const planning::CutRules rules = {.block_tokens = block_tokens_,
                                    .max_chunk_tokens = std::max<int64_t>(budget, block_tokens_)};
  const int64_t best = num_stages_ == 1 ? prompt_tokens - begin
                                        : planning::EvenChunkTokens(stage_cost, num_stages_, begin,
                                                                    prompt_tokens, rules);
  const int64_t end = begin + std::min(best, std::max<int64_t>(budget, 0));
  if (end == prompt_tokens) return end - begin;
  return std::max<int64_t>(end / block_tokens_ * block_tokens_ - begin, 0);
}

}  // namespace longhaul::worker::leader
