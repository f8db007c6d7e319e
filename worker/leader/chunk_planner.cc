#include "worker/leader/chunk_planner.h"

#include <algorithm>

#include "common/logging.h"

namespace longhaul::worker::leader {

int64_t ChunkPlanner::NextChunk(int64_t begin, int64_t prompt_tokens, int64_t budget) const {
  CHECK(begin >= 0 && begin < prompt_tokens)
      << "begin=" << begin << " prompt_tokens=" << prompt_tokens;
  const int64_t end = begin + std::min(prompt_tokens - begin, std::max<int64_t>(budget, 0));
  if (end == prompt_tokens) return end - begin;
  return std::max<int64_t>(end / block_tokens_ * block_tokens_ - begin, 0);
}

}  // namespace longhaul::worker::leader
