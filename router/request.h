#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/time/time.h"
#include "common/sampling_params.h"
#include "common/text/chat_template.h"
#include "common/types.h"

namespace longhaul::router {

// What a client may leave open; absent fields take the model's generation_config.json defaults.
// Names and ranges as in proto/longhaul/v1/types.proto. Ranges are checked once, in
// ResolveSampling.
struct SamplingOptions {
  std::optional<double> temperature;
  std::optional<double> top_p;
  std::optional<int64_t> top_k;
  std::optional<double> min_p;
  std::optional<double> repetition_penalty;
  std::optional<double> presence_penalty;
  std::optional<double> frequency_penalty;
  std::optional<uint64_t> seed;
  std::vector<std::pair<TokenId, float>> logit_bias;
  std::optional<int64_t> top_logprobs;
  std::optional<int64_t> prompt_logprobs;  // alternatives for each token of the prompt
};

struct ChatInput {
  std::vector<text::ChatMessage> messages;
  std::vector<std::string> tools_json;  // one JSON schema object a tool
  bool add_generation_prompt = true;    // the beginning of the assistant's answer comes last
};
struct TextInput {
  std::string prompt;
};
struct TokenInput {
  std::vector<TokenId> ids;
};

using PromptInput = std::variant<ChatInput, TextInput, TokenInput>;

// A request as a frontend decoded it, before tokenizing. Value; handed over by move.
struct GenerateRequest {
  RequestId id = RequestId::Random();
  std::string client_request_id;  // echoed; the id in hexadecimal if the client gave none
  std::string model;
  PromptInput input;
  SamplingOptions sampling;
  std::optional<int64_t> max_tokens;
  int64_t min_tokens = 0;
  bool ignore_eos = false;
  std::vector<TokenId> stop_token_ids;
  std::vector<std::string> stop;
  int64_t num_choices = 1;
  int32_t priority = 0;
  bool echo = false;  // PromptEvents with the prompt's text come before the first delta
  // Keep the last so many prompt tokens; -1 = as many as leave room for max_tokens.
  std::optional<int64_t> truncate_prompt_tokens;
  absl::Time arrival = absl::InfinitePast();  // set by Intake::Submit
  // What the client asked for, from its arrival on; absent = the default. Refused above the longest
  // allowed.
  std::optional<double> timeout_seconds;
  // When the caller's transport gives up (a gRPC deadline). Submit sets it to when the request's
  // time is over, whichever is first.
  absl::Time deadline = absl::InfiniteFuture();
  std::string tenant;       // empty without authentication
  std::string traceparent;  // W3C trace context, may be empty
};

struct Usage {
  int32_t prompt_tokens = 0;
  int32_t cached_tokens = 0;
  int32_t completion_tokens = 0;
};

enum class FinishReason { kStop, kLength, kCancelled };

// Where a prefill stands; processed_tokens includes cached ones.
struct ProgressEvent {
  int32_t prompt_tokens = 0;
  int32_t cached_tokens = 0;
  int32_t processed_tokens = 0;
  std::optional<double> eta_seconds;  // to the first token
};

struct QueuedEvent {
  int32_t position = 0;  // requests of this router ahead of this one
  std::optional<double> predicted_wait_seconds;
  int32_t prompt_tokens = 0;
};

// The next tokens of the prompt, in order; with echo their text. Without logprobs one event has the
// whole text and no tokens.
struct PromptEvent {
  int32_t choice = 0;
  std::string text;                    // whole UTF-8 sequences; empty without echo
  int32_t begin = 0;                   // position of tokens[0]
  std::vector<GeneratedToken> tokens;  // the prompt's first token has no logprob
};

struct DeltaEvent {
  int32_t choice = 0;
  std::string text;  // whole UTF-8 sequences, may be empty when only tokens are new
  std::vector<GeneratedToken> tokens;
};

struct FinishedEvent {
  int32_t choice = 0;
  FinishReason reason = FinishReason::kStop;
  Usage usage;
  std::optional<double> time_to_first_token_seconds;  // from arrival
  std::string stop;                                   // the stop string that matched
};

}  // namespace longhaul::router
