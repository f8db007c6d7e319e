#include "router/worker_client.h"

#include <grpcpp/client_context.h>
#include <grpcpp/support/client_callback.h>

#include <algorithm>
#include <atomic>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "longhaul/v1/worker.grpc.pb.h"

namespace longhaul::router {
namespace {

// A packed id takes at most 5 bytes, so a chunk stays below 256 KiB whatever the ids are.
constexpr size_t kIdsPerChunk = 52'000;

void FillSampling(const SamplingParams& from, v1::Sampling& to) {
  to.set_temperature(from.temperature);
  to.set_top_p(from.top_p);
  to.set_top_k(from.top_k);
  to.set_min_p(from.min_p);
  to.set_repetition_penalty(from.repetition_penalty);
  to.set_presence_penalty(from.presence_penalty);
  to.set_frequency_penalty(from.frequency_penalty);
  to.set_seed(from.seed);
  for (const auto& [token, bias] : from.logit_bias) {
    (*to.mutable_logit_bias())[static_cast<uint32_t>(token)] = bias;
  }
}

void FillStopping(const StopParams& from, v1::Stopping& to) {
  to.set_max_tokens(static_cast<uint32_t>(from.max_tokens));
  to.set_min_tokens(static_cast<uint32_t>(from.min_tokens));
  to.set_ignore_eos(from.ignore_eos);
  to.mutable_stop_token_ids()->Add(from.stop_token_ids.begin(), from.stop_token_ids.end());
}

void FillHeader(const ExecutionSpec& spec, absl::Time now, v1::ExecuteHeader& header) {
  header.mutable_request_id()->set_high(spec.id.high);
  header.mutable_request_id()->set_low(spec.id.low);
  header.set_model(spec.model);
  header.set_model_digest(spec.model_digest.ToBytes());
  header.set_prompt_tokens(static_cast<uint32_t>(spec.prompt->size()));
  FillSampling(spec.sampling, *header.mutable_sampling());
  FillStopping(spec.stop, *header.mutable_stopping());
  if (spec.sampling.top_logprobs) {
    header.set_top_logprobs(static_cast<uint32_t>(*spec.sampling.top_logprobs));
  }
  if (spec.sampling.prompt_logprobs) {
    header.set_prompt_logprobs(static_cast<uint32_t>(*spec.sampling.prompt_logprobs));
  }
  if (spec.deadline != absl::InfiniteFuture()) {
    header.set_deadline_seconds(std::max(0.0, absl::ToDoubleSeconds(spec.deadline - now)));
  }
  header.set_priority(spec.priority);
  header.set_traceparent(spec.traceparent);
}

GeneratedToken FromProto(const v1::GeneratedToken& from) {
  GeneratedToken token{.token = static_cast<TokenId>(from.token_id())};
  if (from.has_logprob()) token.logprob = from.logprob();
  for (const v1::TokenLogprob& top : from.top_logprobs()) {
    token.top_logprobs.push_back({static_cast<TokenId>(top.token_id()), top.logprob()});
  }
  return token;
}

ResultEvent FromProto(const v1::ExecuteFinished& from) {
  ResultEvent result{.cached_tokens = static_cast<int32_t>(from.cached_tokens()),
                     .completion_tokens = static_cast<int32_t>(from.completion_tokens())};
  switch (from.reason()) {
    case v1::FINISH_REASON_STOP:
      result.reason = FinishReason::kStop;
      break;
    case v1::FINISH_REASON_LENGTH:
      result.reason = FinishReason::kLength;
      break;
    case v1::FINISH_REASON_CANCELLED:
      result.reason = FinishReason::kCancelled;
      break;
    default: {
      // OK cannot be the code of an error; a leader that says so has a bug of its own.
      const auto code = from.error_code() == 0 ? absl::StatusCode::kInternal
                                               : static_cast<absl::StatusCode>(from.error_code());
      result.error = absl::Status(code, from.error());
    }
  }
  return result;
}

// nullopt for an event that this version does not know.
std::optional<ExecutionEvent> FromProto(const v1::ExecuteEvent& event) {
  switch (event.event_case()) {
    case v1::ExecuteEvent::kAdmitted:
      return AdmittedEvent{static_cast<int32_t>(event.admitted().cached_tokens()),
                           event.admitted().predicted_wait_seconds()};
    case v1::ExecuteEvent::kRejected:
      return RejectedEvent{event.rejected().predicted_wait_seconds(), event.rejected().reason()};
    case v1::ExecuteEvent::kProgress: {
      const v1::Progress& from = event.progress();
      ProgressEvent progress{static_cast<int32_t>(from.prompt_tokens()),
                             static_cast<int32_t>(from.cached_tokens()),
                             static_cast<int32_t>(from.processed_tokens()), std::nullopt};
      if (from.has_eta_seconds()) progress.eta_seconds = from.eta_seconds();
      return progress;
    }
    case v1::ExecuteEvent::kTokens: {
      TokensEvent tokens;
      for (const auto& token : event.tokens().tokens()) tokens.tokens.push_back(FromProto(token));
      return tokens;
    }
    case v1::ExecuteEvent::kPromptLogprobs: {
      const v1::PromptLogprobs& from = event.prompt_logprobs();
      PromptLogprobsEvent prompt{.begin = static_cast<int32_t>(from.begin())};
      for (const auto& token : from.tokens()) prompt.tokens.push_back(FromProto(token));
      return prompt;
    }
    case v1::ExecuteEvent::kFinished:
      return FromProto(event.finished());
    case v1::ExecuteEvent::EVENT_NOT_SET:
      break;
  }
  return std::nullopt;
}

// The reactor: gRPC calls its On* methods one at a time for reads and one at a time for writes; the
// members of the two directions are disjoint. The hold keeps OnDone back until the read direction
// is over, so that Resume never meets a finished call.
class StreamedExecution final
    : public Execution,
      public grpc::ClientBidiReactor<v1::ExecuteRequest, v1::ExecuteEvent> {
 public:
  StreamedExecution(const std::string& address, std::shared_ptr<grpc::Channel> channel,
                    ExecutionSpec spec, absl::Time now, WorkerClient::OnEvent on_event)
      : address_(address),
        stub_(v1::Worker::NewStub(std::move(channel))),
        prompt_(spec.prompt),
        on_event_(std::move(on_event)) {
    FillHeader(spec, now, *request_.mutable_header());
  }

  void Begin() {
    stub_->async()->Execute(&context_, this);
    AddHold();
    StartWrite(&request_);
    StartRead(&event_);
    StartCall();
  }

  void Resume() override { StartRead(&event_); }

  void Cancel() override {
    cancelled_.store(true);
    context_.TryCancel();
  }

  void Lose() override {
    lost_.store(true);
    context_.TryCancel();
  }

  void OnWriteDone(bool ok) override {
    if (!ok) return;  // the stream is broken: the read direction reports it
    if (num_sent_ == prompt_->size()) return StartWritesDone();
    const size_t end = std::min(num_sent_ + kIdsPerChunk, prompt_->size());
    auto* ids = request_.mutable_prompt()->mutable_ids();
    ids->Clear();
    ids->Reserve(static_cast<int>(end - num_sent_));
    for (; num_sent_ < end; ++num_sent_) ids->Add(static_cast<uint32_t>((*prompt_)[num_sent_]));
    StartWrite(&request_);
  }

  void OnReadDone(bool ok) override {
    if (!ok) return RemoveHold();
    std::optional<ExecutionEvent> event = FromProto(event_);
    if (!event) return StartRead(&event_);
    on_event_(*std::move(event));
  }

  void OnDone(const grpc::Status& status) override {
    absl::Status ended(
        static_cast<absl::StatusCode>(status.error_code()),
        absl::StrCat("worker ", address_, ": ",
                     lost_.load() ? "it reports nothing any more" : status.error_message()));
    if (absl::IsCancelled(ended) && !cancelled_.load()) {
      ended = absl::UnavailableError(ended.message());
    }
    if (status.ok()) ended = absl::OkStatus();
    // The owner may destroy this object while the call is still on the stack.
    const WorkerClient::OnEvent on_event = std::move(on_event_);
    on_event(EndedEvent{std::move(ended)});
  }

 private:
  const std::string address_;
  const std::unique_ptr<v1::Worker::Stub> stub_;
  const std::shared_ptr<const std::vector<TokenId>> prompt_;
  WorkerClient::OnEvent on_event_;
  grpc::ClientContext context_;
  std::atomic<bool> cancelled_ = false;
  std::atomic<bool> lost_ = false;
  // Write direction.
  v1::ExecuteRequest request_;
  size_t num_sent_ = 0;
  // Read direction.
  v1::ExecuteEvent event_;
};

}  // namespace

std::unique_ptr<Execution> WorkerClient::Start(const std::string& address, ExecutionSpec spec,
                                               OnEvent on_event) const {
  auto execution = std::make_unique<StreamedExecution>(
      address, channels_.Get(address), std::move(spec), clock_.Now(), std::move(on_event));
  execution->Begin();
  return execution;
}

}  // namespace longhaul::router
