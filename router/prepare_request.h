#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/sampling_params.h"
#include "common/text/stop_matcher.h"
#include "common/types.h"
#include "router/cluster_view.h"
#include "router/request.h"
#include "router/resolve_sampling.h"
#include "router/served_model.h"

namespace longhaul::router {

// A request that can be executed: tokenized, checked, every default resolved.
struct PreparedRequest {
  std::shared_ptr<const std::vector<TokenId>> prompt;
  // Under the roots of the groups that were known; none with prompt_logprobs, which reuse nothing.
  std::vector<PromptPrefix> prefixes;
  SamplingParams sampling;  // of choice 0; choice i has seed + i
  StopParams stop;
  std::vector<std::string> stop_strings;
  text::StopMatcher stop_matcher;  // fresh; each choice copies it
  bool echo = false;
  std::string echo_text;  // the prompt as text, if it is told as a whole: echo without its logprobs
  int32_t num_choices = 1;
  int32_t priority = 0;
  std::string model;
  std::string tenant;
  std::string traceparent;
};

// Every id is one of the model's. Errors: InvalidField of `field` with the id and its position.
absl::Status CheckTokenIds(const char* field, std::span<const TokenId> ids, int32_t vocab_size);

// What the model reads for a conversation. Errors: InvalidField of "messages" (no chat template,
// none of them, UTF-8) or of the part at fault, as "messages[1].role" or "tools[0]".
absl::StatusOr<std::vector<TokenId>> EncodeChat(const ChatInput& chat, const ServedModel& model);

// Checks ranges first (cheap), then renders and tokenizes (seconds for a million tokens), then
// checks lengths against `limits`, whose vocabulary is the model's. `drawn_seed` is used if the
// client left the seed open. Pure but for its time. Errors: InvalidField, and kResourceExhausted
// from the tokenizer.
absl::StatusOr<PreparedRequest> PrepareRequest(GenerateRequest request, const ServedModel& model,
                                               const RequestLimits& limits, uint64_t drawn_seed);

}  // namespace longhaul::router
