#include "router/live_request.h"

#include <algorithm>
#include <utility>

#include "common/logging.h"
#include "common/status_macros.h"

namespace longhaul::router {

LiveRequest::LiveRequest(RequestArrival arrival) : arrival_(std::move(arrival)) {}

void LiveRequest::SetPrepared(PreparedRequest prepared, const text::Tokenizer& tokenizer) {
  prepared_ = std::move(prepared);
  for (int32_t i = 0; i < prepared_->num_choices; ++i) {
    ChoiceState& choice = choices_.emplace_back();
    choice.waiting = WaitingExecution{.key = {.request = arrival_.id, .choice = i},
                                      .tenant = prepared_->tenant,
                                      .priority = prepared_->priority,
                                      .deadline = arrival_.deadline};
    choice.prompt = std::make_unique<PromptOutput>(
        tokenizer, *prepared_->prompt,
        PromptReport{.text = prepared_->echo,
                     .logprobs = prepared_->sampling.prompt_logprobs.has_value()},
        i);
    choice.output = std::make_unique<ChoiceOutput>(
        tokenizer, prepared_->stop_matcher, prepared_->stop_strings, i, prepared_->stop.min_tokens);
  }
}

ExecutionSpec LiveRequest::Spec(int32_t choice) const {
  const auto offset = static_cast<uint64_t>(choice);
  ExecutionSpec spec{
      // Choices are requests of their own to a leader; a retry carries the same id and seed.
      .id = {.high = arrival_.id.high, .low = arrival_.id.low + offset},
      .prompt = prepared_->prompt,
      .sampling = prepared_->sampling,
      .stop = prepared_->stop,
      .deadline = arrival_.deadline,
      .priority = prepared_->priority,
      .traceparent = prepared_->traceparent,
  };
  spec.sampling.seed += offset;
  return spec;
}

void LiveRequest::Queued(size_t num_ahead, std::optional<double> predicted_wait_seconds) {
  arrival_.sink->OnQueued(QueuedEvent{.position = static_cast<int32_t>(num_ahead),
                                      .predicted_wait_seconds = predicted_wait_seconds,
                                      .prompt_tokens = prompt_tokens()});
}

void LiveRequest::Progress(int32_t choice, const ProgressEvent& event) {
  if (choice == 0) arrival_.sink->OnProgress(event);
}

absl::Status LiveRequest::DeliverPrompt(int32_t choice, int32_t begin,
                                        std::vector<GeneratedToken> tokens) {
  ChoiceState& state = choices_.at(static_cast<size_t>(choice));
  ASSIGN_OR_RETURN(const std::optional<PromptEvent> event,
                   state.prompt->Push(begin, std::move(tokens)));
  if (event) arrival_.sink->OnPrompt(*event);
  return absl::OkStatus();
}

absl::Status LiveRequest::FinishPrompt(int32_t choice) {
  ASSIGN_OR_RETURN(const std::optional<PromptEvent> event,
                   choices_.at(static_cast<size_t>(choice)).prompt->Finish(prepared_->echo_text));
  if (event) arrival_.sink->OnPrompt(*event);
  return absl::OkStatus();
}

bool LiveRequest::Deliver(int32_t choice, std::vector<GeneratedToken> tokens, absl::Time now) {
  ChoiceState& state = choices_.at(static_cast<size_t>(choice));
  if (!tokens.empty() && !state.first_token) state.first_token = now;
  const DeltaEvent delta = state.output->Push(std::move(tokens));
  if (!delta.tokens.empty()) arrival_.sink->OnDelta(delta);
  return state.output->stopped();
}

bool LiveRequest::FinishChoice(int32_t choice, FinishReason reason) {
  ChoiceState& state = choices_.at(static_cast<size_t>(choice));
  CHECK(!ended_ && !state.done) << "request=" << arrival_.id.ToString() << " choice=" << choice
                                << " ends twice";
  if (const std::optional<DeltaEvent> rest = state.output->Flush()) arrival_.sink->OnDelta(*rest);
  state.done = true;
  ended_ = ++num_done_ == static_cast<int32_t>(choices_.size());
  FinishedEvent finished{
      .choice = choice,
      .reason = state.output->stopped() ? FinishReason::kStop : reason,
      .usage = {.prompt_tokens = prompt_tokens(),
                .cached_tokens = state.cached_tokens,
                .completion_tokens = state.output->num_tokens()},
      .stop = state.output->stop(),
  };
  if (state.first_token) {
    finished.time_to_first_token_seconds =
        absl::ToDoubleSeconds(*state.first_token - arrival_.arrival);
  }
  arrival_.sink->OnFinished(finished, ended_);
  return ended_;
}

void LiveRequest::Fail(const absl::Status& status) {
  CHECK(!ended_) << "request=" << arrival_.id.ToString() << " ends twice";
  ended_ = true;
  arrival_.sink->OnError(status);
}

}  // namespace longhaul::router
