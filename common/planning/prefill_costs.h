#pragma once

#include <cstdint>

namespace longhaul::planning {

// Tokens [begin, begin + count) of a prompt: what one unit prefills, behind `begin` processed ones.
struct Chunk {
  int64_t begin = 0;
  int64_t count = 0;  // > 0

  int64_t end() const { return begin + count; }
};

// What one prompt's chunks take on each stage of a pipeline. Implementations are thread-compatible
// and give the same answer for the same arguments.
class PrefillCosts {
 public:
  virtual ~PrefillCosts() = default;

  virtual int num_stages() const = 0;
  // Seconds for which `stage` is busy with the chunk, above 0; infinite if it may not be run.
  // `last`: the prompt ends in it, and a token is sampled.
  virtual double StageSeconds(int stage, const Chunk& chunk, bool last) const = 0;
  // Seconds from a stage's end of the chunk to the next stage's having its activations.
  virtual double SendSeconds(const Chunk& chunk) const = 0;
};

}  // namespace longhaul::planning
