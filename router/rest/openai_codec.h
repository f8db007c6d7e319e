#pragma once

#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/types.h"
#include "router/request.h"

// Request bodies of the OpenAI API and its neighbours (vLLM's /tokenize) as our own structs.
//
// Checks types and widths; ranges of sampling and lengths are checked where the model is known
// (router/resolve_sampling.h). Unknown fields are ignored, as OpenAI does; what it knows and this
// server cannot do is refused. Pure functions without I/O; a body of 5 MB takes milliseconds, so
// they are called on a DecodePool. Errors: kInvalidArgument with field, value and limit.
namespace longhaul::router::rest {

enum class OpenAiEndpoint { kChatCompletions, kCompletions };

// How the answer is to look.
struct ResponseShape {
  OpenAiEndpoint endpoint = OpenAiEndpoint::kChatCompletions;
  std::string model;  // as the client named it
  bool stream = false;
  bool include_usage = false;     // a last chunk with the usage
  bool include_progress = false;  // chunks with the state of the prefill
  bool echo = false;
  bool logprobs = false;         // of the output, and of an echoed prompt
  bool prompt_logprobs = false;  // vLLM's own list of the prompt's, apart from the text's
};

struct OpenAiRequest {
  // One a prompt, alike but for their input. More than one: completions only. Choice j of prompt i
  // is choice i * n + j of the answer.
  std::vector<GenerateRequest> requests;
  ResponseShape shape;
};

absl::StatusOr<OpenAiRequest> DecodeOpenAiRequest(OpenAiEndpoint endpoint, std::string body);

// POST /tokenize. The model may be left open where only one is served.
struct TokenizeRequest {
  std::optional<std::string> model;
  std::variant<TextInput, ChatInput> input;  // "prompt", or "messages" with "tools"
  bool parse_special = true;                 // "<|im_end|>" in a prompt becomes its special token
};
absl::StatusOr<TokenizeRequest> DecodeTokenizeRequest(std::string body);

struct DetokenizeRequest {
  std::optional<std::string> model;
  std::vector<TokenId> tokens;
};
absl::StatusOr<DetokenizeRequest> DecodeDetokenizeRequest(std::string body);

}  // namespace longhaul::router::rest
