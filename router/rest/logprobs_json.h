#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/sampling_params.h"
#include "router/intake.h"

// Logprobs in the three forms that clients of the OpenAI API know. Pure functions.
//
// A token may be part of a character: its text is then not UTF-8, and leaves as U+FFFD where its
// bytes stand beside it, as "bytes:\\xe4\\xb8" (as OpenAI writes it) where the text is a key. A
// logprob of minus infinity, which JSON cannot say, is -9999.
namespace longhaul::router::rest {

// `logprobs` of a choice of a chat.
nlohmann::ordered_json ChatLogprobs(const std::vector<GeneratedToken>& tokens,
                                    const TokenBytes& token_bytes);

// Characters of a choice's text so far. One counts once it is complete, so that all tokens that
// make it have its offset. A value.
class TextOffset {
 public:
  int64_t characters() const { return characters_; }
  void Push(const std::string& bytes);

 private:
  std::string held_;  // the beginning of a character
  int64_t characters_ = 0;
};

// `logprobs` of a choice of a completion. A token without a logprob (the first of an echoed prompt)
// has null. The alternatives have the token itself too. `text_offset` is moved on.
nlohmann::ordered_json CompletionLogprobs(const std::vector<GeneratedToken>& tokens,
                                          const TokenBytes& token_bytes, TextOffset& text_offset);

// vLLM's `prompt_logprobs`: for each token of the prompt the logprobs of it and its alternatives by
// their ids. `rank` is null for a token that is not among the alternatives.
nlohmann::ordered_json PromptLogprobs(const std::vector<GeneratedToken>& tokens,
                                      const TokenBytes& token_bytes);

}  // namespace longhaul::router::rest
