#include "router/rest/rest_call.h"

#include <algorithm>
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
  for (const Part& part : parts_) part.sink->Detach();
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
  const bool has_timeout = decoded.requests.front().timeout_seconds.has_value();
  if (!has_timeout && !http_request_.timeout.empty()) {
    double seconds = 0;
    if (!absl::SimpleAtod(http_request_.timeout, &seconds)) {
      return InvalidField("X-Request-Timeout",
                          absl::StrCat("X-Request-Timeout is \"", http_request_.timeout,
                                       "\", must be a number of seconds"));
    }
    for (GenerateRequest& request : decoded.requests) request.timeout_seconds = seconds;
  }
  return decoded;
}

void RestCall::OnDecoded(absl::StatusOr<OpenAiRequest> decoded) {
  http_request_.body_lease.reset();
  if (done_) return;
  if (!decoded.ok()) return Fail(decoded.status());
  shape_ = std::move(decoded->shape);
  std::vector<GenerateRequest>& requests = decoded->requests;
  const int64_t num_choices = requests.front().num_choices;
  encoder_.emplace(shape_, http_request_.id, requests.size(), static_cast<size_t>(num_choices),
                   context_.clock.Now(),
                   [&intake = context_.intake, model = shape_.model](TokenId id) {
                     return intake.TokenBytes(model, id);
                   });
  // The whole answer and its first prompt share an id; it is the one in clients' hands.
  requests.front().id = http_request_.id;
  parts_.reserve(requests.size());
  for (GenerateRequest& request : requests) {
    request.client_request_id = http_request_.client_request_id;
    request.traceparent = http_request_.traceparent;
    const auto first_choice =
        static_cast<int32_t>(parts_.size() * static_cast<size_t>(num_choices));
    const absl::Status submitted = Submit(std::move(request), first_choice);
    if (!submitted.ok()) return Fail(submitted);
  }
  if (!shape_.stream) return;
  grace_timer_.expires_after(absl::ToChronoNanoseconds(context_.options.stream_head_grace));
  grace_timer_.async_wait([weak = weak_from_this()](const boost::system::error_code& error) {
    const std::shared_ptr<RestCall> call = weak.lock();
    if (!error && call != nullptr && !call->done_) call->StartStream();
  });
}

absl::Status RestCall::Submit(GenerateRequest request, int32_t first_choice) {
  auto sink = std::make_shared<RestSink>([weak = weak_from_this(), strand = strand_] {
    asio::post(strand, [weak] {
      if (const auto call = weak.lock()) call->OnEvents();
    });
  });
  const RequestId id = request.id;
  const absl::Status submitted = context_.intake.Submit(std::move(request), sink);
  if (!submitted.ok()) {
    sink->Detach();
    return submitted;
  }
  parts_.push_back({.id = id, .sink = std::move(sink), .first_choice = first_choice});
  return absl::OkStatus();
}

void RestCall::OnEvents() {
  if (done_) return;
  for (Part& part : parts_) {
    for (RestEvent& event : part.sink->Take()) {
      OnEvent(part, event);
      if (done_) return;
    }
  }
}

void RestCall::OnEvent(Part& part, RestEvent& event) {
  const auto exchange = exchange_.lock();
  if (exchange == nullptr) return Finish();
  std::visit(Overloaded{
                 [&](const QueuedEvent&) {
                   part.queued = true;
                   // Any of the prompts may still be refused, with a status of its own.
                   if (shape_.stream && std::ranges::all_of(parts_, &Part::queued)) StartStream();
                 },
                 [&](const ProgressEvent& progress) {
                   part.progress = progress;
                   if (!streaming_) return;
                   if (shape_.include_progress) {
                     exchange->SendEvent(encoder_->ProgressChunk(TotalProgress()));
                   }
                 },
                 [&](PromptEvent& prompt) {
                   prompt.choice += part.first_choice;
                   if (!shape_.stream) return encoder_->Add(prompt);
                   StartStream();
                   SendAll(encoder_->PromptChunks(prompt));
                 },
                 [&](DeltaEvent& delta) {
                   delta.choice += part.first_choice;
                   if (!shape_.stream) return encoder_->Add(delta);
                   StartStream();
                   SendAll(encoder_->DeltaChunks(delta));
                 },
                 [&](FinishedChoice& finished) {
                   finished.event.choice += part.first_choice;
                   part.ended = finished.all_done;
                   OnFinished(finished.event);
                 },
                 [&](const absl::Status& status) {
                   part.ended = true;
                   Fail(AtPart(part, status));
                 },
             },
             event);
}

ProgressEvent RestCall::TotalProgress() const {
  ProgressEvent total;
  for (const Part& part : parts_) {
    total.prompt_tokens += part.progress.prompt_tokens;
    total.cached_tokens += part.progress.cached_tokens;
    total.processed_tokens += part.progress.processed_tokens;
    const std::optional<double>& eta = part.progress.eta_seconds;
    if (eta.has_value()) total.eta_seconds = std::max(*eta, total.eta_seconds.value_or(0));
  }
  return total;
}

absl::Status RestCall::AtPart(const Part& part, const absl::Status& status) const {
  if (parts_.size() == 1 || DetailOf(status).field != "prompt") return status;
  return AtField(absl::StrCat("prompt[", &part - parts_.data(), "]"), status);
}

void RestCall::OnFinished(const FinishedEvent& finished) {
  const bool all_done = std::ranges::all_of(parts_, &Part::ended);
  if (shape_.stream) {
    StartStream();
    SendAll(encoder_->FinishChunks(finished, all_done));
  } else {
    encoder_->Add(finished);
  }
  if (!all_done) return;
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
  Fail(status);
}

void RestCall::Fail(const absl::Status& status) {
  // One prompt's failure is that of all: there is no answer to put the others' into.
  for (const Part& part : parts_) {
    if (!part.ended) context_.intake.Cancel(part.id);
  }
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
  for (const Part& part : parts_) part.sink->Detach();
}

}  // namespace longhaul::router::rest
