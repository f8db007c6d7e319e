#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/sampling_params.h"
#include "common/text/detokenizer.h"
#include "common/text/tokenizer.h"
#include "router/request.h"

namespace longhaul::router {

// What of its prompt a client wants to read back.
struct PromptReport {
  bool text = false;      // echo
  bool logprobs = false;  // of its tokens, as the worker tells them
};

// The prompt of one choice on its way back to its client: every position once, in order, whatever
// executions told them.
//
// Without logprobs the whole text is one event. With them each part of the prompt is one, and the
// first token, which nothing precedes, comes without a logprob. Thread-compatible, owned by the
// dispatch thread.
class PromptOutput {
 public:
  // `tokenizer` and `prompt` (not empty) are borrowed.
  PromptOutput(const text::Tokenizer& tokenizer, const std::vector<TokenId>& prompt,
               PromptReport report, int32_t choice);

  // The event for `tokens`, which stand from position `begin` > 0 on; absent if all of them were
  // told before (an execution that was tried again begins anew). Errors: kInternal, if they leave a
  // gap, are not those of the prompt, or have no logprob: a worker's fault.
  absl::StatusOr<std::optional<PromptEvent>> Push(int32_t begin,
                                                  std::vector<GeneratedToken> tokens);

  // What is left to tell before the first delta or the end; absent if nothing is. `text` is the
  // whole prompt's, used if it is told in one event. Errors: kInternal, if the worker did not give
  // all logprobs.
  absl::StatusOr<std::optional<PromptEvent>> Finish(const std::string& text);

 private:
  PromptEvent Tell(std::vector<GeneratedToken> tokens);

  const std::vector<TokenId>& prompt_;
  const PromptReport report_;
  const int32_t choice_;
  text::IncrementalDetokenizer detokenizer_;
  size_t num_told_ = 0;  // positions
  bool finished_ = false;
};

}  // namespace longhaul::router
