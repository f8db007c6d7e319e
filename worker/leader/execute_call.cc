#include "worker/leader/execute_call.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "worker/leader/event_pump.h"

namespace longhaul::worker::leader {
namespace {

// One Execute: reads header and prompt, hands the request to the engine, writes its events.
class ExecuteCall final : public grpc::ServerBidiReactor<v1::ExecuteRequest, v1::ExecuteEvent> {
 public:
  using Pump = EventPump<grpc::ServerBidiReactor<v1::ExecuteRequest, v1::ExecuteEvent>>;

  ExecuteCall(CallContext& shared, grpc::CallbackServerContext* context)
      : shared_(shared),
        log_(std::make_shared<EventLog>()),
        pump_(std::make_shared<Pump>(this, context, log_, 0)) {
    shared_.ticker.Add(pump_);
    if (shared_.open_calls.fetch_add(1) >= kMaxOpenCalls) {
      pump_->Abort(absl::ResourceExhaustedError(
          absl::StrCat("the leader has ", kMaxOpenCalls, " calls open")));
      return;
    }
    Read();
  }

  void OnReadDone(bool ok) override {
    pump_->ExpectMessage(std::nullopt);
    switch (phase_) {
      case Phase::kHeader:
        return TakeHeader(ok);
      case Phase::kPrompt:
        return TakePrompt(ok);
      case Phase::kSubmitted:
        // Closing the sending side is what a router does now. A broken stream shows in OnCancel.
        if (ok) pump_->Abort(absl::InvalidArgumentError("a message after the whole prompt"));
        return;
    }
  }
  void OnWriteDone(bool ok) override {
    ReleaseTransit();  // the engine has answered
    pump_->OnWriteDone(ok);
  }
  void OnCancel() override { pump_->Abort(absl::CancelledError("the router closed the stream")); }
  void OnDone() override {
    pump_->Detach();
    shared_.ticker.Remove(pump_.get());
    log_->RemoveReader(pump_.get());
    ReleaseTransit();
    if (phase_ == Phase::kSubmitted) shared_.engine.ReaderLeft(id_);
    shared_.open_calls.fetch_sub(1);
    delete this;
  }

 private:
  enum class Phase { kHeader, kPrompt, kSubmitted };

  void Read() {
    if (phase_ != Phase::kSubmitted) pump_->ExpectMessage(shared_.clock.Now());
    StartRead(&incoming_);
  }

  void TakeHeader(bool ok) {
    if (!ok || !incoming_.has_header()) {
      return pump_->Abort(absl::InvalidArgumentError("the first message must be a header"));
    }
    absl::StatusOr<Request> request =
        FromProto(incoming_.header(), shared_.model, shared_.clock.Now());
    if (!request.ok()) return pump_->Abort(request.status());
    request_ = *std::move(request);
    id_ = request_.id;
    prompt_tokens_ = incoming_.header().prompt_tokens();
    const int64_t before = shared_.prompt_tokens_in_transit.fetch_add(prompt_tokens_);
    in_transit_ = true;
    if (before + prompt_tokens_ > kMaxPromptTokensInTransit) {
      return Reject(absl::StrCat("prompts of ", before, " tokens are arriving, limit ",
                                 kMaxPromptTokensInTransit));
    }
    phase_ = Phase::kPrompt;
    Read();
  }

  void TakePrompt(bool ok) {
    if (!ok) {
      return pump_->Abort(
          absl::InvalidArgumentError(absl::StrCat("the stream ended after ", request_.prompt.size(),
                                                  " of ", prompt_tokens_, " prompt tokens")));
    }
    if (absl::Status taken = AppendChunk(); !taken.ok()) return pump_->Abort(taken);
    if (request_.prompt_tokens() < prompt_tokens_) return Read();
    phase_ = Phase::kSubmitted;
    log_->AddReader(pump_);
    const absl::Status submitted = shared_.engine.Submit(std::move(request_), log_);
    if (!submitted.ok()) return Reject(std::string(submitted.message()));
    Read();
  }

  absl::Status AppendChunk() {
    if (!incoming_.has_prompt()) return absl::InvalidArgumentError("a second header");
    const v1::PromptChunk& chunk = incoming_.prompt();
    if (chunk.ByteSizeLong() > kMaxPromptChunkBytes) {
      return absl::InvalidArgumentError(absl::StrCat("prompt chunk of ", chunk.ByteSizeLong(),
                                                     " bytes, limit ", kMaxPromptChunkBytes));
    }
    if (chunk.ids_size() == 0) return absl::InvalidArgumentError("an empty prompt chunk");
    if (request_.prompt_tokens() + chunk.ids_size() > prompt_tokens_) {
      return absl::InvalidArgumentError(
          absl::StrCat("prompt of more than prompt_tokens ", prompt_tokens_));
    }
    for (const uint32_t id : chunk.ids()) {
      if (id >= static_cast<uint32_t>(shared_.model.vocab_size)) {
        return absl::InvalidArgumentError(
            absl::StrCat("prompt has token ", id, ", vocabulary ", shared_.model.vocab_size));
      }
      request_.prompt.push_back(static_cast<TokenId>(id));
    }
    return absl::OkStatus();
  }

  // Without the engine, so in its stead.
  void Reject(std::string reason) {
    log_->Append(RejectedEvent{.predicted_wait_seconds = 1, .reason = std::move(reason)});
    log_->Close(absl::OkStatus());
    pump_->OnEvents();
  }

  void ReleaseTransit() {
    if (in_transit_.exchange(false)) shared_.prompt_tokens_in_transit.fetch_sub(prompt_tokens_);
  }

  CallContext& shared_;
  const std::shared_ptr<EventLog> log_;
  const std::shared_ptr<Pump> pump_;
  // Touched by one read at a time, then by OnDone.
  Phase phase_ = Phase::kHeader;
  v1::ExecuteRequest incoming_;
  Request request_;
  RequestId id_;
  int64_t prompt_tokens_ = 0;
  std::atomic<bool> in_transit_ = false;
};

// One Attach: events of a request that is known already.
class AttachCall final : public grpc::ServerWriteReactor<v1::ExecuteEvent> {
 public:
  using Pump = EventPump<grpc::ServerWriteReactor<v1::ExecuteEvent>>;

  AttachCall(CallContext& shared, grpc::CallbackServerContext* context,
             const v1::AttachRequest& request)
      : shared_(shared),
        id_(FromProto(request.request_id())),
        log_(shared.requests.Find(id_)),
        pump_(std::make_shared<Pump>(this, context, log_, request.from_event())) {
    shared_.ticker.Add(pump_);
    const bool too_many = shared_.open_calls.fetch_add(1) >= kMaxOpenCalls;
    if (log_ == nullptr) {
      pump_->Abort(absl::NotFoundError(
          absl::StrCat("request ", id_.ToString(), " is not known, or no longer")));
    } else if (too_many) {
      pump_->Abort(absl::ResourceExhaustedError(
          absl::StrCat("the leader has ", kMaxOpenCalls, " calls open")));
    } else {
      log_->AddReader(pump_);
      pump_->OnEvents();
    }
  }

  void OnWriteDone(bool ok) override { pump_->OnWriteDone(ok); }
  void OnCancel() override { pump_->Abort(absl::CancelledError("the reader closed the stream")); }
  void OnDone() override {
    pump_->Detach();
    shared_.ticker.Remove(pump_.get());
    if (log_ != nullptr) {
      log_->RemoveReader(pump_.get());
      shared_.engine.ReaderLeft(id_);
    }
    shared_.open_calls.fetch_sub(1);
    delete this;
  }

 private:
  CallContext& shared_;
  const RequestId id_;
  const std::shared_ptr<EventLog> log_;  // null if the request is unknown
  const std::shared_ptr<Pump> pump_;
};

}  // namespace

grpc::ServerBidiReactor<v1::ExecuteRequest, v1::ExecuteEvent>* NewExecuteCall(
    CallContext& shared, grpc::CallbackServerContext* context) {
  return new ExecuteCall(shared, context);
}

grpc::ServerWriteReactor<v1::ExecuteEvent>* NewAttachCall(CallContext& shared,
                                                          grpc::CallbackServerContext* context,
                                                          const v1::AttachRequest& request) {
  return new AttachCall(shared, context, request);
}

}  // namespace longhaul::worker::leader
