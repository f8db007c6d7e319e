#include "common/planning/even_chunks.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/logging.h"

namespace longhaul::planning {

double EvenChunkSeconds(const CostCoefficients& cost, int num_stages, int64_t begin, int64_t end) {
  CHECK(num_stages > 0 && 0 <= begin && begin <= end)
      << "num_stages=" << num_stages << " begin=" << begin << " end=" << end;
  if (num_stages == 1) return std::numeric_limits<double>::infinity();
  const double from = static_cast<double>(begin);
  const double to = static_cast<double>(end);
  const double work = cost.b * (to - from) + cost.a * (to * to - from * from);
  const double overhead = cost.c + cost.g * (from + to) / 2;
  return overhead + std::sqrt(work * overhead / (num_stages - 1));
}

int64_t EvenChunkTokens(const CostCoefficients& cost, int num_stages, int64_t begin,
                        int64_t prompt_tokens, const CutRules& rules) {
  CHECK(begin >= 0 && begin < prompt_tokens && rules.max_chunk_tokens >= rules.block_tokens)
      << "begin=" << begin << " prompt_tokens=" << prompt_tokens;
  const int64_t most = std::min(rules.max_chunk_tokens, prompt_tokens - begin);
  const double seconds = EvenChunkSeconds(cost, num_stages, 0, prompt_tokens);
  const int64_t tokens = std::min(most, TokensWithin(cost, begin, seconds - cost.c));
  if (tokens == prompt_tokens - begin) return tokens;
  const int64_t block = rules.block_tokens;
  // The end is at a block, also behind a begin that is not.
  const int64_t nearest = (begin + tokens + block / 2) / block * block - begin;
  const int64_t furthest = (begin + most) / block * block - begin;
  const int64_t first = block - begin % block;
  return std::min(std::max(std::min(nearest, furthest), first), prompt_tokens - begin);
}

}  // namespace longhaul::planning
