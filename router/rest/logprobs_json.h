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

// `logprobs` of a choice of a completion. A token without a logprob (the first of an echoed prompt)
// has null. `text_offset`, the characters of the choice so far, is moved on.
nlohmann::ordered_json CompletionLogprobs(const std::vector<GeneratedToken>& tokens,
                                          const TokenBytes& token_bytes, int64_t& text_offset);

// vLLM's `prompt_logprobs`: for each token of the prompt the logprobs of it and its alternatives by
// their ids. `rank` is null for a token that is not among the alternatives.
nlohmann::ordered_json PromptLogprobs(const std::vector<GeneratedToken>& tokens,
                                      const TokenBytes& token_bytes);

}  // namespace longhaul::router::rest
