#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/sampling_params.h"
#include "common/text/detokenizer.h"
#include "common/text/stop_matcher.h"
#include "common/text/tokenizer.h"
#include "router/request.h"

namespace longhaul::router {

// Turns the tokens of one choice into the text that its client sees, up to a stop string.
//
// Stop strings are looked for from token min_tokens + 1 on; a match drops the stop string and what
// follows it. Thread-compatible, owned by the dispatch thread.
class ChoiceOutput {
 public:
  // `tokenizer` is borrowed. `stop_matcher` is fresh.
  ChoiceOutput(const text::Tokenizer& tokenizer, text::StopMatcher stop_matcher,
               const std::vector<std::string>& stops, int32_t choice, int32_t min_tokens);

  // The event for tokens just generated. After a match the tokens behind it are dropped.
  DeltaEvent Push(std::vector<GeneratedToken> tokens);

  // Generation has ended: the text that was held back, if any.
  std::optional<DeltaEvent> Flush();

  bool stopped() const { return stop_.has_value(); }
  // The stop string that matched; empty if none did.
  std::string stop() const { return stop_.value_or(""); }
  int32_t num_tokens() const { return num_tokens_; }

 private:
  std::string Match(const std::string& piece);

  const int32_t choice_;
  const int32_t min_tokens_;
  const std::vector<std::string> stops_;
  text::IncrementalDetokenizer detokenizer_;
  text::StopMatcher stop_matcher_;
  int32_t num_tokens_ = 0;
  std::optional<std::string> stop_;
};

}  // namespace longhaul::router
