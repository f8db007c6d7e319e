#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "common/types.h"
#include "router/intake.h"
#include "router/request.h"
#include "router/rest/logprobs_json.h"
#include "router/rest/openai_codec.h"

namespace longhaul::router::rest {

// The events of one request as the JSON objects that OpenAI's clients expect: chunks of a stream,
// or one whole answer. Knows nothing of HTTP or SSE framing. Thread-compatible.
class OpenAiEncoder {
 public:
  // A request of `num_prompts` with `num_choices` each; events name choices of the whole answer.
  OpenAiEncoder(ResponseShape shape, const RequestId& id, size_t num_prompts, size_t num_choices,
                absl::Time created, TokenBytes token_bytes);

  // Streams: each string is the data of one event. The first chunk of a chat's choice has the role
  // and comes with its first token, so that clients may take it for the time to first token.
  std::string ProgressChunk(const ProgressEvent& event) const;
  std::vector<std::string> PromptChunks(const PromptEvent& event);
  std::vector<std::string> DeltaChunks(const DeltaEvent& event);
  // The last choice is followed by the usage if it was asked for.
  std::vector<std::string> FinishChunks(const FinishedEvent& event, bool all_done);

  // Whole answers: gathered until the last choice is finished.
  void Add(const PromptEvent& event);
  void Add(const DeltaEvent& event);
  void Add(const FinishedEvent& event);
  std::string WholeBody() const;

 private:
  struct Choice {
    bool has_role = false;               // streams: the role went out
    std::string text;                    // whole answers
    std::vector<GeneratedToken> tokens;  // whole answers, if logprobs were asked for
    std::vector<GeneratedToken> prompt;  // whole answers, if prompt_logprobs were asked for
    TextOffset text_offset;              // completions' logprobs
    const char* finish_reason = "stop";
  };

  bool is_chat() const { return shape_.endpoint == OpenAiEndpoint::kChatCompletions; }
  void CountUsage(const FinishedEvent& event);
  Usage TotalUsage() const;

  const ResponseShape shape_;
  const std::string id_;
  const int64_t created_;  // unix seconds
  const TokenBytes token_bytes_;
  std::vector<Choice> choices_;
  std::vector<Usage> usages_;  // of each prompt; completion tokens of its finished choices
};

// GET /v1/models and /v1/models/{id}.
std::string ModelListBody(const std::vector<ModelInfo>& models);
std::string ModelBody(const ModelInfo& model);

// POST /tokenize and /detokenize.
std::string TokenizeBody(const std::vector<TokenId>& ids, int32_t max_model_len);
std::string DetokenizeBody(const std::string& text);

}  // namespace longhaul::router::rest
