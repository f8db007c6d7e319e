#pragma once

#include <vector>

#include "common/types.h"
#include "worker/leader/request.h"

namespace longhaul::worker::leader {

// Decides where an output ends. Pure; immutable after construction.
//
// The model's end tokens (<|im_end|>, <|endoftext|>) are marks and never part of the output, unless
// ignore_eos makes them ordinary. A request's own stop token is an ordinary token of the
// vocabulary: it is output, then generation ends, as vLLM does. Before min_tokens neither ends
// anything (the sampler bans them, so one that arrives nevertheless is taken as ordinary).
// max_tokens counts output tokens.
class StopRule {
 public:
  enum class Verdict {
    kContinue,      // output, go on
    kEndToken,      // not output, finished: stop
    kStopToken,     // output, finished: stop
    kLengthReached  // output, finished: length
  };

  explicit StopRule(std::vector<TokenId> model_end_tokens);

  // `output_tokens`: how many were output before this one.
  Verdict Judge(const Request& request, size_t output_tokens, TokenId token) const;

  // What the sampler bans while the output has fewer than min_tokens. Empty if there is no minimum.
  std::vector<TokenId> Banned(const Request& request) const;

 private:
  const std::vector<TokenId> model_end_tokens_;
};

}  // namespace longhaul::worker::leader
