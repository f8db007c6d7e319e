#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "router/intake.h"

namespace longhaul::fuzz {

// An intake that answers within Submit, so that a run repeats exactly. min_tokens of the request
// says how: 0 well; 1 an error instead of Queued; 2 an error after the first text; 3 never to the
// end, until it is cancelled; 4 Submit itself fails. A byte is a token. One thread at a time.
class InstantIntake final : public router::Intake {
 public:
  absl::Status Submit(router::GenerateRequest request,
                      std::shared_ptr<router::ResponseSink> sink) override {
    if (request.model != "demo") return absl::NotFoundError("no such model is served here");
    if (request.min_tokens == 4) return absl::ResourceExhaustedError("too many requests");
    if (request.min_tokens == 1) {
      sink->OnError(absl::InvalidArgumentError("the prompt is too \"long\"\n"));
      return absl::OkStatus();
    }
    sink->OnQueued({.position = 1, .predicted_wait_seconds = 0.5, .prompt_tokens = 3});
    sink->OnProgress({.prompt_tokens = 3, .cached_tokens = 1, .processed_tokens = 2});
    for (int32_t choice = 0; choice < request.num_choices; choice++) {
      if (!request.echo && !request.sampling.prompt_logprobs.has_value()) break;
      router::PromptEvent prompt{.choice = choice, .text = request.echo ? "P\xC3\xA4" : ""};
      if (request.sampling.prompt_logprobs.has_value()) {
        prompt.tokens = {{.token = 'P'}, {.token = 0xC3, .logprob = -1.0f}};
      }
      sink->OnPrompt(prompt);
    }
    for (const char* text : {"Hel", "lo\n", " w\xC3\xB6rld\xF0\x9F\x98\x80"}) {
      for (int32_t choice = 0; choice < request.num_choices; choice++) {
        router::DeltaEvent delta{.choice = choice, .text = text, .tokens = {}};
        GeneratedToken token{.token = text[0]};
        if (request.sampling.top_logprobs.has_value()) {
          token.logprob = -0.25f;
          token.top_logprobs = {{text[0], -0.25f}, {0xFF, -9999.0f}};
        }
        delta.tokens.push_back(std::move(token));
        sink->OnDelta(delta);
      }
      if (request.min_tokens == 2) {
        sink->OnError(absl::UnavailableError("a rank was lost"));
        return absl::OkStatus();
      }
    }
    if (request.min_tokens == 3) {
      running_.insert(request.id);
      return absl::OkStatus();
    }
    for (int32_t choice = 0; choice < request.num_choices; choice++) {
      sink->OnFinished({.choice = choice,
                        .reason = router::FinishReason::kStop,
                        .usage = {.prompt_tokens = 3, .cached_tokens = 1, .completion_tokens = 3}},
                       choice + 1 == request.num_choices);
    }
    return absl::OkStatus();
  }
  void Cancel(const RequestId& id) override { running_.erase(id); }

  std::vector<router::ModelInfo> Models() const override {
    return {{.id = "demo", .max_model_len = 1000, .healthy_groups = 1, .created_unix_seconds = 17}};
  }
  absl::StatusOr<std::vector<TokenId>> Tokenize(std::string_view, std::string_view text,
                                                bool) const override {
    return std::vector<TokenId>(text.begin(), text.end());
  }
  absl::StatusOr<std::vector<TokenId>> TokenizeChat(std::string_view,
                                                    const router::ChatInput& chat) const override {
    return std::vector<TokenId>(chat.messages.size());
  }
  absl::StatusOr<std::string> Detokenize(std::string_view,
                                         const std::vector<TokenId>& ids) const override {
    std::string text;
    for (const TokenId id : ids) text += static_cast<char>('a' + id % 26);
    return text;
  }
  std::string TokenBytes(std::string_view, TokenId id) const override {
    return std::string(1, static_cast<char>(id));
  }
  bool Ready() const override { return true; }

  // Requests that neither ended nor were cancelled.
  size_t num_running() const { return running_.size(); }

 private:
  std::set<RequestId> running_;
};

}  // namespace longhaul::fuzz
