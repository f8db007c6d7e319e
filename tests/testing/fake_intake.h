#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/mutex.h"
#include "router/intake.h"

namespace longhaul::testing {

// A small real Intake: answers each request from a thread of its own with the words of `reply`, one
// token a word, as slowly and as unsuccessfully as it is told to. A byte is a token to Tokenize.
// Thread-safe. Destroy it after what calls it.
class FakeIntake final : public router::Intake {
 public:
  struct Options {
    std::string model = "demo";
    int32_t max_model_len = 1000;
    std::vector<std::string> reply = {"Hello", " big", " world"};
    int32_t prompt_tokens = 7;
    int32_t cached_tokens = 4;
    std::vector<router::ProgressEvent> progress;        // sent before the first token
    absl::Duration queue_delay = absl::ZeroDuration();  // before Queued
    absl::Duration prefill = absl::ZeroDuration();      // silence after the progress
    absl::Duration token_interval = absl::ZeroDuration();
    bool never_finish = false;                // after the reply: silence until it is cancelled
    absl::Status submit_error;                // returned by Submit
    std::optional<absl::Status> early_error;  // instead of Queued
    std::string early_error_of = "";          // of this prompt only; empty = of all
    std::optional<absl::Status> late_error;   // after the reply, instead of Finished
    router::FinishReason finish_reason = router::FinishReason::kStop;
    bool ready = true;
  };

  explicit FakeIntake(Options options);
  ~FakeIntake() override;  // cancels and joins

  absl::Status Submit(router::GenerateRequest request,
                      std::shared_ptr<router::ResponseSink> sink) override EXCLUDES(mutex_);
  void Cancel(const RequestId& id) override EXCLUDES(mutex_);
  std::vector<router::ModelInfo> Models() const override;
  absl::StatusOr<std::vector<TokenId>> Tokenize(std::string_view model, std::string_view text,
                                                bool parse_special) const override;
  // The messages' contents, one after another.
  absl::StatusOr<std::vector<TokenId>> TokenizeChat(std::string_view model,
                                                    const router::ChatInput& chat) const override;
  // Ids from kFirstWordId are the words of the reply, smaller ones bytes.
  absl::StatusOr<std::string> Detokenize(std::string_view model,
                                         const std::vector<TokenId>& ids) const override;
  std::string TokenBytes(std::string_view model, TokenId id) const override;
  bool Ready() const override { return options_.ready; }

  static constexpr TokenId kFirstWordId = 1000;

  // What was submitted so far.
  std::vector<router::GenerateRequest> Submitted() const EXCLUDES(mutex_);
  // Waits until `count` requests were cancelled while they ran; false after `timeout`.
  bool WaitForCancelled(size_t count, absl::Duration timeout) EXCLUDES(mutex_);
  bool WaitForSubmitted(size_t count, absl::Duration timeout) EXCLUDES(mutex_);

 private:
  // Each byte of the prompt is a token, with '?' as its alternative.
  static void EchoPrompt(const router::GenerateRequest& request, router::ResponseSink& sink);
  void Answer(const router::GenerateRequest& request, router::ResponseSink& sink) EXCLUDES(mutex_);
  // False if the request was cancelled.
  bool Sleep(const RequestId& id, absl::Duration duration) EXCLUDES(mutex_);

  const Options options_;
  mutable Mutex mutex_;
  CondVar changed_;
  std::vector<router::GenerateRequest> submitted_ GUARDED_BY(mutex_);
  std::map<RequestId, bool> cancelled_ GUARDED_BY(mutex_);  // of the running ones
  size_t num_cancelled_ GUARDED_BY(mutex_) = 0;
  bool stopping_ GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_ GUARDED_BY(mutex_);
};

}  // namespace longhaul::testing
