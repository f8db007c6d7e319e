#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "common/types.h"
#include "worker/leader/request.h"

namespace longhaul::worker::leader {

// A request on its way through the engine. Written by the sequence pool (KV), the batch scheduler
// (planning) and the engine core (output), all on the engine thread.
//
// Positions [0, prompt) are prompt, then output. A position is known once its token is: the output
// token sampled last is known but in no plan yet. A sequence that was preempted runs again from
// what the prefix cache still has of its known positions.
struct Sequence {
  explicit Sequence(Request r) : request(std::move(r)) {}

  const Request request;
  SequenceId id = 0;                 // new each time it starts
  uint64_t order = 0;                // of arrival; first come, first served within a priority
  Digest prefix_root;                // of its chain of block identities
  std::vector<Digest> prefix_chain;  // of its prompt's blocks, if it may share them
  int32_t replays = 0;               // incarnations that were lost under it
  int32_t preemptions = 0;           // times that it gave its KV blocks to others
  std::vector<TokenId> output;       // every sampled token but the end token

  int64_t prompt_logprobs_told = 1;  // positions below it were reported, or need not be
  int64_t cached_prompt_tokens = 0;  // of its prompt, found in the cache at its first start
  int64_t most_processed = 0;        // over all its starts: what lies below was paid for before

  // KV, void while waiting.
  std::vector<BlockId> blocks;   // in the order of positions
  int32_t promised_blocks = 0;   // further ones that it is sure to get
  int32_t published_blocks = 0;  // of them, from the first on, that the cache knows
  Digest published;              // identity of the last of them
  int32_t restore_end = 0;       // blocks before this one come from another tier; 0 = none do
  bool running = false;          // has blocks
  bool passed_head = false;      // runs before a head of the line that lacked blocks

  // Planning, void while waiting.
  int64_t cached_tokens = 0;     // positions whose KV was there when it started
  int64_t planned_tokens = 0;    // positions that some plan carries, or that were cached
  int64_t processed_tokens = 0;  // positions whose plan has retired, or that were cached
  int32_t blocks_sent = 0;       // blocks told to the ranks
  int32_t plans_in_flight = 0;
  bool sample_in_flight = false;  // a plan that samples for it has not retired
  bool told = false;              // the ranks know it
  bool cut = false;               // its last unit waits between two layers
  bool ended = false;             // no further unit; gone when the last plan that names it retires

  absl::Time last_token_time = absl::InfinitePast();

  int64_t prompt_tokens() const { return request.prompt_tokens(); }
  int64_t known_tokens() const { return prompt_tokens() + static_cast<int64_t>(output.size()); }
  TokenId token(int64_t position) const {
    return position < prompt_tokens() ? request.prompt[static_cast<size_t>(position)]
                                      : output[static_cast<size_t>(position - prompt_tokens())];
  }
  // The last output token is all that is known and not planned: one row of decode.
  bool decode_ready() const {
    return !output.empty() && !sample_in_flight && planned_tokens == known_tokens() - 1 &&
           restore_end == 0 && !cut;
  }
  // Rows of its prompt, or after a preemption of its output, are to be planned.
  bool prefilling() const {
    return planned_tokens < known_tokens() && !decode_ready() && restore_end == 0;
  }
  // Nothing will be sampled and the whole prompt has been processed.
  bool prefill_only_done() const {
    return request.stopping.max_tokens == 0 && processed_tokens >= prompt_tokens();
  }
};

}  // namespace longhaul::worker::leader
