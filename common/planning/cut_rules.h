#pragma once

#include <cstdint>
#include <vector>

#include "common/types.h"

namespace longhaul::planning {

// Where a prompt may be cut.
struct CutRules {
  int64_t block_tokens = kKvBlockTokens;  // a chunk ends at a multiple of it, or with the prompt
  int64_t max_chunk_tokens = 0;           // what activation memory holds; >= block_tokens
  // From `sparse_begin` on cuts are at multiples of `piece_tokens`, which block_tokens divides; 0 =
  // no pieces (dense attention). A multiple of piece_tokens is needed within max_chunk_tokens.
  int64_t piece_tokens = 0;
  int64_t sparse_begin = 0;
  int64_t segment_tokens = 0;  // no chunk crosses a multiple of it; 0 = it may
};

// Positions at which chunks may begin or end, ascending: 0, ..., prompt_tokens > 0.
std::vector<int64_t> CutPositions(int64_t prompt_tokens, const CutRules& rules);

// The furthest end that a chunk from `begin` may have: within max_chunk_tokens, its segment and the
// prompt.
int64_t FurthestEnd(int64_t begin, int64_t prompt_tokens, const CutRules& rules);

}  // namespace longhaul::planning
