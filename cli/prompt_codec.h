#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

// One prompt as a request of the OpenAI API, and the stream that answers it. Pure functions.
namespace longhaul::cli {

// How a prompt is to be answered. What is absent is the model's default; ranges are the server's
// to check.
struct PromptOptions {
  bool raw = false;                   // the text as it is, without the chat template
  std::optional<std::string> system;  // chat only
  std::optional<int64_t> max_tokens;
  std::optional<double> temperature;
  std::optional<double> top_p;
  std::optional<int64_t> top_k;
  std::optional<double> min_p;
  std::optional<double> repetition_penalty;
  std::optional<int64_t> seed;
  std::vector<std::string> stop;
  bool ignore_eos = false;
};

// "/v1/chat/completions" or "/v1/completions".
std::string PromptPath(const PromptOptions& options);

// The body that asks for a stream with usage and progress. kInvalidArgument if a text among the
// options is not UTF-8. Precondition: `prompt` and `model` are.
absl::StatusOr<std::string> PromptBody(const PromptOptions& options, const std::string& model,
                                       const std::string& prompt);

// One event of the stream.
struct PromptEvent {
  struct Progress {
    int64_t prompt_tokens = 0;
    int64_t processed_tokens = 0;  // cached ones included
    std::optional<double> eta_seconds;
  };
  struct Usage {
    int64_t prompt_tokens = 0;
    int64_t completion_tokens = 0;
  };
  std::string text;
  std::string finish_reason;  // empty until the end
  std::optional<Progress> progress;
  std::optional<Usage> usage;
  std::optional<std::string> error;  // the server's message; the stream ends
  bool done = false;                 // "[DONE]"
};

// kInternal if it is no such event.
absl::StatusOr<PromptEvent> ParsePromptEvent(std::string_view data);

// What an error's body says: the message, if it has OpenAI's shape, else the body's beginning.
std::string ErrorMessageOf(std::string_view body);

}  // namespace longhaul::cli
