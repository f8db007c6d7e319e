#include "common/planning/cut_rules.h"

#include <algorithm>

#include "common/logging.h"

namespace longhaul::planning {

std::vector<int64_t> CutPositions(int64_t prompt_tokens, const CutRules& rules) {
  CHECK(prompt_tokens > 0 && rules.block_tokens > 0 &&
        rules.max_chunk_tokens >= std::max(rules.block_tokens, rules.piece_tokens))
      << "prompt_tokens=" << prompt_tokens << " max_chunk_tokens=" << rules.max_chunk_tokens;
  CHECK(rules.piece_tokens % rules.block_tokens == 0 &&
        rules.segment_tokens % std::max(rules.block_tokens, rules.piece_tokens) == 0);
  std::vector<int64_t> positions;
  for (int64_t at = 0; at < prompt_tokens; at += rules.block_tokens) {
    const bool dense = rules.piece_tokens == 0 || at <= rules.sparse_begin;
    if (dense || at % rules.piece_tokens == 0) positions.push_back(at);
  }
  positions.push_back(prompt_tokens);
  return positions;
}

int64_t FurthestEnd(int64_t begin, int64_t prompt_tokens, const CutRules& rules) {
  int64_t end = std::min(prompt_tokens, begin + rules.max_chunk_tokens);
  if (rules.segment_tokens > 0) {
    end = std::min(end, (begin / rules.segment_tokens + 1) * rules.segment_tokens);
  }
  return end;
}

}  // namespace longhaul::planning
