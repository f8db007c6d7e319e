#include "tests/testing/fake_intake.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"

namespace longhaul::testing {

using router::DeltaEvent;
using router::FinishedEvent;
using router::GenerateRequest;
using router::ResponseSink;

FakeIntake::FakeIntake(Options options) : options_(std::move(options)) {}

FakeIntake::~FakeIntake() {
  std::vector<std::thread> threads;
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    threads.swap(threads_);
  }
  changed_.SignalAll();
  for (std::thread& thread : threads) thread.join();
}

absl::Status FakeIntake::Submit(GenerateRequest request, std::shared_ptr<ResponseSink> sink) {
  if (!options_.submit_error.ok()) return options_.submit_error;
  if (request.model != options_.model) {
    return absl::NotFoundError("the model \"" + request.model + "\" is not served here");
  }
  MutexLock lock(mutex_);
  if (stopping_) return absl::UnavailableError("the intake stops");
  submitted_.push_back(request);
  cancelled_[request.id] = false;
  threads_.emplace_back([this, request = std::move(request), sink = std::move(sink)] {
    Answer(request, *sink);
    MutexLock end(mutex_);
    cancelled_.erase(request.id);
  });
  changed_.SignalAll();
  return absl::OkStatus();
}

void FakeIntake::Cancel(const RequestId& id) {
  MutexLock lock(mutex_);
  const auto found = cancelled_.find(id);
  if (found == cancelled_.end() || found->second) return;
  found->second = true;
  num_cancelled_++;
  changed_.SignalAll();
}

bool FakeIntake::Sleep(const RequestId& id, absl::Duration duration) {
  const absl::Time deadline = absl::Now() + duration;
  MutexLock lock(mutex_);
  while (!stopping_ && !cancelled_[id]) {
    if (absl::Now() >= deadline) return true;
    changed_.WaitUntil(mutex_, deadline);
  }
  return false;
}

void FakeIntake::EchoPrompt(const GenerateRequest& request, ResponseSink& sink) {
  const auto* input = std::get_if<router::TextInput>(&request.input);
  const std::string prompt = input != nullptr ? input->prompt : "prompt";
  const bool logprobs = request.sampling.prompt_logprobs.has_value();
  if (!request.echo && !logprobs) return;
  for (int32_t choice = 0; choice < request.num_choices; choice++) {
    if (!logprobs) {
      sink.OnPrompt({.choice = choice, .text = prompt});
      continue;
    }
    for (size_t i = 0; i < prompt.size(); ++i) {
      router::PromptEvent event{.choice = choice, .begin = static_cast<int32_t>(i)};
      if (request.echo) event.text = prompt.substr(i, 1);
      GeneratedToken token{.token = static_cast<unsigned char>(prompt[i])};
      if (i > 0) token.logprob = -0.25f;
      if (i > 0 && *request.sampling.prompt_logprobs > 0) token.top_logprobs = {{'?', -0.125f}};
      event.tokens.push_back(std::move(token));
      sink.OnPrompt(event);
    }
  }
}

void FakeIntake::Answer(const GenerateRequest& request, ResponseSink& sink) {
  if (!Sleep(request.id, options_.queue_delay)) return;
  const auto* text = std::get_if<router::TextInput>(&request.input);
  const bool is_meant = options_.early_error_of.empty() ||
                        (text != nullptr && text->prompt == options_.early_error_of);
  if (options_.early_error.has_value() && is_meant) return sink.OnError(*options_.early_error);
  sink.OnQueued(
      {.position = 0, .predicted_wait_seconds = 0.5, .prompt_tokens = options_.prompt_tokens});
  for (const router::ProgressEvent& event : options_.progress) {
    sink.OnProgress(event);
    // Progress that overtakes progress may be merged by the sink; tests want to see each.
    if (!Sleep(request.id, absl::Milliseconds(20))) return;
  }
  if (!Sleep(request.id, options_.prefill)) return;
  EchoPrompt(request, sink);
  for (size_t i = 0; i < options_.reply.size(); i++) {
    if (i > 0 && !Sleep(request.id, options_.token_interval)) return;
    for (int32_t choice = 0; choice < request.num_choices; choice++) {
      DeltaEvent delta{.choice = choice, .text = options_.reply[i], .tokens = {}};
      GeneratedToken token{.token = kFirstWordId + static_cast<TokenId>(i)};
      if (request.sampling.top_logprobs.has_value()) {
        token.logprob = -0.5f;
        if (*request.sampling.top_logprobs > 0) token.top_logprobs = {{token.token, -0.5f}};
      }
      delta.tokens.push_back(std::move(token));
      sink.OnDelta(delta);
    }
  }
  if (options_.late_error.has_value()) return sink.OnError(*options_.late_error);
  if (options_.never_finish && !Sleep(request.id, absl::Hours(1))) return;
  for (int32_t choice = 0; choice < request.num_choices; choice++) {
    FinishedEvent finished{.choice = choice, .reason = options_.finish_reason};
    finished.usage = {.prompt_tokens = options_.prompt_tokens,
                      .cached_tokens = options_.cached_tokens,
                      .completion_tokens = static_cast<int32_t>(options_.reply.size())};
    sink.OnFinished(finished, choice + 1 == request.num_choices);
  }
}

std::vector<router::ModelInfo> FakeIntake::Models() const {
  return {{.id = options_.model,
           .max_model_len = options_.max_model_len,
           .healthy_groups = options_.ready ? 1 : 0,
           .created_unix_seconds = 1700000000}};
}

absl::StatusOr<std::vector<TokenId>> FakeIntake::TokenizeChat(std::string_view model,
                                                              const router::ChatInput& chat) const {
  std::string text;
  for (const auto& message : chat.messages) text += message.content;
  return Tokenize(model, text, /*parse_special=*/false);
}

absl::StatusOr<std::vector<TokenId>> FakeIntake::Tokenize(std::string_view, std::string_view text,
                                                          bool) const {
  std::vector<TokenId> ids;
  for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

absl::StatusOr<std::string> FakeIntake::Detokenize(std::string_view model,
                                                   const std::vector<TokenId>& ids) const {
  std::string text;
  for (const TokenId id : ids) text += TokenBytes(model, id);
  return text;
}

std::string FakeIntake::TokenBytes(std::string_view, TokenId id) const {
  if (id < kFirstWordId) return std::string(1, static_cast<char>(id));
  return options_.reply.at(static_cast<size_t>(id - kFirstWordId));
}

std::vector<GenerateRequest> FakeIntake::Submitted() const {
  MutexLock lock(mutex_);
  return submitted_;
}

bool FakeIntake::WaitForCancelled(size_t count, absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  MutexLock lock(mutex_);
  while (num_cancelled_ < count) {
    if (!changed_.WaitUntil(mutex_, deadline) && num_cancelled_ < count) return false;
  }
  return true;
}

bool FakeIntake::WaitForSubmitted(size_t count, absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  MutexLock lock(mutex_);
  while (submitted_.size() < count) {
    if (!changed_.WaitUntil(mutex_, deadline) && submitted_.size() < count) return false;
  }
  return true;
}

}  // namespace longhaul::testing
