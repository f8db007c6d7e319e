#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/text/tokenizer.h"
#include "common/types.h"
#include "router/admission_queue.h"
#include "router/choice_output.h"
#include "router/placement.h"
#include "router/prepare_request.h"
#include "router/prompt_output.h"
#include "router/response_sink.h"
#include "router/worker_client.h"

namespace longhaul::router {

// A request as the dispatch thread takes it over, before it is tokenized.
struct RequestArrival {
  RequestId id;
  std::shared_ptr<ResponseSink> sink;
  absl::Time arrival = absl::InfinitePast();
  absl::Time deadline = absl::InfiniteFuture();
  int64_t prompt_bytes = 0;  // what it counts for in the budget of prompts held
  // Set when nobody wants the prompt any more, so that tokenizing it can be skipped.
  std::shared_ptr<std::atomic<bool>> abandoned = std::make_shared<std::atomic<bool>>(false);
};

// Where one choice stands. `execution` names the running one (0 = none).
struct ChoiceState {
  WaitingExecution waiting;  // as admitted, to put it back
  absl::Time queued_at = absl::InfinitePast();
  uint64_t execution = 0;
  GroupLife group;  // of the running execution
  bool admitted = false;
  bool prefill_began = false;
  int32_t retries = 0;  // after UNAVAILABLE; at most one
  int32_t cached_tokens = 0;
  int32_t processed_tokens = 0;  // of the prompt, by the running execution
  bool done = false;
  // Groups not to be asked again before `until`.
  struct Hold {
    GroupLife group;
    absl::Time until;
  };
  std::vector<Hold> holds;
  std::optional<absl::Time> first_token;
  std::unique_ptr<PromptOutput> prompt;
  std::unique_ptr<ChoiceOutput> output;
};

// One request from arrival to its end, and the only caller of its sink: Finished of the last choice
// or an error, exactly once. Knows no group, queue or wire. Thread-compatible, owned by the
// dispatch thread.
class LiveRequest {
 public:
  explicit LiveRequest(RequestArrival arrival);

  const RequestArrival& arrival() const { return arrival_; }
  bool prepared() const { return prepared_.has_value(); }
  // Precondition of what follows: SetPrepared was called.
  const PreparedRequest& request() const { return *prepared_; }
  std::vector<ChoiceState>& choices() { return choices_; }
  int32_t prompt_tokens() const { return static_cast<int32_t>(prepared_->prompt->size()); }

  // Makes the choices. `tokenizer` is borrowed.
  void SetPrepared(PreparedRequest prepared, const text::Tokenizer& tokenizer);

  // What a leader is to do for a choice, also when it is tried again; model and digest are left to
  // the group's.
  ExecutionSpec Spec(int32_t choice) const;

  void Queued(size_t num_ahead, std::optional<double> predicted_wait_seconds);

  // Reported for choice 0 only: the choices of a request share their prompt.
  void Progress(int32_t choice, const ProgressEvent& event);

  // Logprobs of the prompt's tokens from position `begin` on. Errors of this and the next:
  // kInternal, a worker's fault (router/prompt_output.h).
  absl::Status DeliverPrompt(int32_t choice, int32_t begin, std::vector<GeneratedToken> tokens);
  // Tells what is left of the prompt. To be called before Deliver and FinishChoice.
  absl::Status FinishPrompt(int32_t choice);

  // Returns true if a stop string ended the choice; FinishChoice is then to be called.
  bool Deliver(int32_t choice, std::vector<GeneratedToken> tokens, absl::Time now);

  // True if the next FinishChoice is the last.
  bool one_choice_left() const { return num_done_ + 1 == static_cast<int32_t>(choices_.size()); }
  // Returns true if all choices are done now.
  bool FinishChoice(int32_t choice, FinishReason reason);

  void Fail(const absl::Status& status);

 private:
  const RequestArrival arrival_;
  std::optional<PreparedRequest> prepared_;
  std::vector<ChoiceState> choices_;
  int32_t num_done_ = 0;
  bool ended_ = false;
};

}  // namespace longhaul::router
