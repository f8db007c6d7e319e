#pragma once

#include <cstdint>

namespace longhaul::worker::leader {

// Decides how many prompt tokens one sequence gets in one unit. The only place where the size of a
// prefill chunk is chosen. Pure; thread-compatible.
class ChunkPlanner {
 public:
  // `block_tokens` > 0: a chunk ends at a multiple of it unless it ends the prompt, so that dense
  // work is cut at KV blocks.
  explicit ChunkPlanner(int32_t block_tokens) : block_tokens_(block_tokens) {}

  // Tokens of the next chunk of a prompt of which [0, begin) is planned, within the `budget` tokens
  // that are left in the unit. 0 if no aligned chunk fits; begin < prompt_tokens.
  int64_t NextChunk(int64_t begin, int64_t prompt_tokens, int64_t budget) const;

 private:
  const int32_t block_tokens_;
};

}  // namespace longhaul::worker::leader
