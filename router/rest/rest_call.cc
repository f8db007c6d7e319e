#include "router/rest/rest_call.h"

#include <boost/asio/post.hpp>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "router/error_detail.h"
#include "router/rest/openai_error.h"
#include "router/rest/request_body.h"

namespace longhaul::router::rest {
namespace {

namespace asio = boost::asio;

template <typename... Handlers>
struct Overloaded : Handlers... {
  using Handlers::operator()...;
};
template <typename... Handlers>
Overloaded(Handlers...) -> Overloaded<Handlers...>;

}  // namespace

RestCall::RestCall(const RestContext& context, HttpRequest request,
                   const std::shared_ptr<HttpExchange>& exchange)
    : context_(context),
      exchange_(exchange),
      strand_(exchange->executor()),
      http_request_(std::move(request)),
      grace_timer_(strand_) {}

RestCall::~RestCall() {
  if (sink_ != nullptr) sink_->Detach();
}

void RestCall::Start(const RestContext& context, OpenAiEndpoint endpoint, HttpRequest request,
                     const std::shared_ptr<HttpExchange>& exchange) {
  const std::shared_ptr<RestCall> call(new RestCall(context, std::move(request), exchange));
  exchange->OnAbandoned([call](const absl::Status& status) { call->OnAbandoned(status); });
  const absl::Status posted = context.decode_pool.Post([call, endpoint] {
    asio::post(call->strand_, [call, decoded = call->Decode(endpoint)]() mutable {
      call->OnDecoded(std::move(decoded));
    });
  });
  if (!posted.ok()) call->Fail(posted);
}

absl::StatusOr<OpenAiRequest> RestCall::Decode(OpenAiEndpoint endpoint) {
  ASSIGN_OR_RETURN(std::string body, ReadableBody(http_request_, context_.options.max_body_bytes));
  ASSIGN_OR_RETURN(OpenAiRequest decoded, DecodeOpenAiRequest(endpoint, std::move(body)));
  // The body's own timeout is the narrower wish.
  if (!decoded.request.timeout_seconds && !http_request_.timeout.empty()) {
    double seconds = 0;
    if (!absl::SimpleAtod(http_request_.timeout, &seconds)) {
      return InvalidField("X-Request-Timeout",
                          absl::StrCat("X-Request-Timeout is \"", http_request_.timeout,
                                       "\", must be a number of seconds"));
    }
    decoded.request.timeout_seconds = seconds;
  }
  return decoded;
}

void RestCall::OnDecoded(absl::StatusOr<OpenAiRequest> decoded) {
  http_request_.body_lease.reset();
  if (done_) return;
  if (!decoded.ok()) return Fail(decoded.status());
  shape_ = std::move(decoded->shape);
  GenerateRequest& request = decoded->request;
  request.id = http_request_.id;
  request.client_request_id = http_request_.client_request_id;
  request.traceparent = http_request_.traceparent;
  encoder_.emplace(shape_, request.id, request.num_choices, context_.clock.Now(),
                   [&intake = context_.intake, model = shape_.model](TokenId id) {
                     return intake.Detokenize(model, {id}).value_or("");
                   });
  auto sink = std::make_shared<RestSink>([weak = weak_from_this(), strand = strand_] {
    asio::post(strand, [weak] {
      if (const auto call = weak.lock()) call->OnEvents();
    });
  });
  const absl::Status submitted = context_.intake.Submit(std::move(request), sink);
  if (!submitted.ok()) {
    sink->Detach();
    return Fail(submitted);
  }
  sink_ = std::move(sink);
  if (!shape_.stream) return;
  grace_timer_.expires_after(absl::ToChronoNanoseconds(context_.options.stream_head_grace));
  grace_timer_.async_wait([weak = weak_from_this()](const boost::system::error_code& error) {
    const std::shared_ptr<RestCall> call = weak.lock();
    if (!error && call != nullptr && !call->done_) call->StartStream();
  });
}

void RestCall::OnEvents() {
  if (done_) return;
  for (const RestEvent& event : sink_->Take()) {
    OnEvent(event);
    if (done_) return;
  }
}

void RestCall::OnEvent(const RestEvent& event) {
  const auto exchange = exchange_.lock();
  if (exchange == nullptr) return Finish();
  std::visit(Overloaded{
                 [this](const QueuedEvent&) {
                   if (shape_.stream) StartStream();
                 },
                 [&](const ProgressEvent& progress) {
                   if (!shape_.stream) return;
                   StartStream();
                   if (shape_.include_progress) {
                     exchange->SendEvent(encoder_->ProgressChunk(progress));
                   }
                 },
                 [](const PromptEvent&) {},
                 [this](const DeltaEvent& delta) {
                   if (!shape_.stream) return encoder_->Add(delta);
                   StartStream();
                   SendAll(encoder_->DeltaChunks(delta));
                 },
                 [this](const FinishedChoice& finished) { OnFinished(finished); },
                 [this](const absl::Status& status) { Fail(status); },
             },
             event);
}

void RestCall::OnFinished(const FinishedChoice& finished) {
  if (shape_.stream) {
    StartStream();
    SendAll(encoder_->FinishChunks(finished.event, finished.all_done));
  } else {
    encoder_->Add(finished.event);
  }
  if (!finished.all_done) return;
  Finish();
  const auto exchange = exchange_.lock();
  if (exchange == nullptr) return;
  if (shape_.stream) {
    exchange->SendEvent("[DONE]");
    exchange->EndStream();
  } else {
    exchange->Reply({.body = encoder_->WholeBody()});
  }
}

void RestCall::OnAbandoned(const absl::Status& status) {
  if (done_) return;
  LOG(INFO) << "request=" << http_request_.id.ToString() << " event=abandoned reason=\""
            << status.message() << "\"";
  if (sink_ != nullptr) context_.intake.Cancel(http_request_.id);
  Fail(status);
}

void RestCall::Fail(const absl::Status& status) {
  Finish();
  const auto exchange = exchange_.lock();
  if (exchange == nullptr) return;
  if (!streaming_) return exchange->Reply(BodyErrorReply(status));
  // The status line is gone: clients take an object with `error` for the end.
  exchange->SendEvent(ErrorBody(status));
  exchange->SendEvent("[DONE]");
  exchange->EndStream();
}

void RestCall::StartStream() {
  if (std::exchange(streaming_, true)) return;
  grace_timer_.cancel();
  if (const auto exchange = exchange_.lock()) exchange->StartStream();
}

void RestCall::SendAll(const std::vector<std::string>& chunks) {
  const auto exchange = exchange_.lock();
  if (exchange == nullptr) return;
  for (const std::string& chunk : chunks) exchange->SendEvent(chunk);
}

void RestCall::Finish() {
  done_ = true;
  grace_timer_.cancel();
  if (sink_ != nullptr) sink_->Detach();
}

}  // namespace longhaul::router::rest
