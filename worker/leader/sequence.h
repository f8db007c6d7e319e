#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "common/types.h"
#include "worker/leader/request.h"

namespace longhaul::worker::leader {

// A request on its way through the engine. Written by the batch scheduler (planning state) and the
// engine core (output), both on the engine thread.
//
// Positions [0, prompt) are prompt, then output. A position is known once its token is: the output
// token sampled last is known but in no plan yet.
struct Sequence {
  explicit Sequence(Request r) : request(std::move(r)) {}

  const Request request;
  SequenceId id = 0;            // new for each incarnation that runs it
  uint64_t order = 0;           // of arrival; first come, first served within a priority
  int32_t replays = 0;          // incarnations that were lost under it
  std::vector<TokenId> output;  // every sampled token but the end token

  int64_t prompt_logprobs_told = 1;  // positions below it were reported, or need not be

  // Planning state, void while waiting.
  int64_t planned_tokens = 0;    // positions that some plan carries
  int64_t processed_tokens = 0;  // positions whose plan has retired
  std::vector<BlockId> blocks;   // the whole reservation: prompt and max_tokens
  int32_t blocks_sent = 0;       // of them, told to the ranks
  int32_t plans_in_flight = 0;
  bool sample_in_flight = false;  // a plan that samples for it has not retired
  bool running = false;           // has blocks
  bool passed_head = false;       // runs before a head of the line that lacked blocks
  bool ended = false;             // no further unit; gone when the last plan that names it retires

  absl::Time last_token_time = absl::InfinitePast();

  int64_t prompt_tokens() const { return request.prompt_tokens(); }
  bool prefilling() const { return planned_tokens < prompt_tokens(); }
  // The last output token is known and not planned: one row of decode can be.
  bool decode_ready() const {
    return !output.empty() && !sample_in_flight &&
           planned_tokens == prompt_tokens() + static_cast<int64_t>(output.size()) - 1;
  }
  // Waits for nothing but the ranks: all of a prefill-only prompt has been processed.
  bool prefill_done() const { return processed_tokens >= prompt_tokens(); }
};

}  // namespace longhaul::worker::leader
