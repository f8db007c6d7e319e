#include "router/rpc/inference_service.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_join.h"
#include "common/status_macros.h"
#include "router/error_detail.h"
#include "router/rpc/finish_call.h"
#include "router/rpc/grpc_codec.h"

namespace longhaul::router::rpc {
namespace {

// Tokenize and Detokenize calls that wait for the thread that does them.
constexpr size_t kMaxWaitingUnary = 64;
constexpr double kUnaryRetrySeconds = 1;
constexpr absl::Duration kStallCheckInterval = absl::Seconds(1);

absl::Time DeadlineOf(const grpc::CallbackServerContext& context) {
  const auto deadline = context.deadline();
  if (deadline == std::chrono::system_clock::time_point::max()) return absl::InfiniteFuture();
  return absl::FromChrono(deadline);
}

// gRPC made the buffer for this one call and is through with it, but would keep it until the call
// ends: minutes, for a prompt.
grpc::ByteBuffer& Owned(const grpc::ByteBuffer* request) {
  return const_cast<grpc::ByteBuffer&>(*request);
}

template <typename Request>
absl::StatusOr<GenerateRequest> TakeGenerateRequest(const grpc::ByteBuffer* bytes) {
  Request request;
  RETURN_IF_ERROR(TakeMessage(Owned(bytes), request));
  return FromProto(request);
}

// What answers a unary call: reads the request, has `answer` fill the response, writes that.
template <typename Request, typename Response, typename Answer>
absl::Status AnswerCall(const grpc::ByteBuffer* in, grpc::ByteBuffer* out, const Answer& answer) {
  Request request;
  RETURN_IF_ERROR(TakeMessage(Owned(in), request));
  Response response;
  RETURN_IF_ERROR(answer(request, response));
  *out = ToBytes(response);
  return absl::OkStatus();
}

}  // namespace

InferenceService::InferenceService(absl::Duration slow_reader, Intake& intake, const Clock& clock)
    : slow_reader_(slow_reader),
      intake_(intake),
      clock_(clock),
      unary_(kMaxWaitingUnary),
      unary_thread_([this] { RunUnary(); }),
      stall_thread_([this] { WatchStalls(); }) {}

InferenceService::~InferenceService() { Stop(); }

void InferenceService::Stop() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
  }
  unary_.Close();
  streams_changed_.SignalAll();
  if (unary_thread_.joinable()) unary_thread_.join();
  if (stall_thread_.joinable()) stall_thread_.join();
}

InferenceService::Stream* InferenceService::Chat(grpc::CallbackServerContext* context,
                                                 const grpc::ByteBuffer* request) {
  return Generate(context, TakeGenerateRequest<v1::ChatRequest>(request));
}

InferenceService::Stream* InferenceService::Complete(grpc::CallbackServerContext* context,
                                                     const grpc::ByteBuffer* request) {
  return Generate(context, TakeGenerateRequest<v1::CompleteRequest>(request));
}

InferenceService::Stream* InferenceService::Generate(grpc::CallbackServerContext* context,
                                                     absl::StatusOr<GenerateRequest> request) {
  if (!request.ok()) return RefuseStream(*context, request.status());
  request->deadline = DeadlineOf(*context);
  const auto traceparent = context->client_metadata().find("traceparent");
  if (traceparent != context->client_metadata().end()) {
    request->traceparent = std::string(traceparent->second.data(), traceparent->second.size());
  }
  const std::shared_ptr<GenerateStream> stream =
      GenerateStream::Create({.context = context,
                              .id = request->id,
                              .client_request_id = request->client_request_id,
                              .model = request->model},
                             intake_, clock_, [this](GenerateStream* done) {
                               MutexLock lock(mutex_);
                               streams_.erase(done);
                             });
  {
    MutexLock lock(mutex_);
    streams_.insert(stream.get());
  }
  streams_changed_.SignalAll();
  const absl::Status submitted = intake_.Submit(*std::move(request), stream);
  if (!submitted.ok()) stream->OnError(submitted);
  return stream.get();
}

void InferenceService::WatchStalls() {
  MutexLock lock(mutex_);
  while (!stopping_) {
    if (streams_.empty()) {
      streams_changed_.Wait(mutex_);
      continue;
    }
    // A stream leaves the set under this lock before it dies.
    for (GenerateStream* stream : streams_) stream->CancelIfStalled(slow_reader_);
    const absl::Time next = clock_.Now() + std::min(kStallCheckInterval, slow_reader_);
    while (!stopping_ && streams_changed_.WaitUntil(mutex_, next)) {
    }
  }
}

void InferenceService::RunUnary() {
  while (const auto work = unary_.Pop(absl::InfiniteFuture())) (*work)();
}

grpc::ServerUnaryReactor* InferenceService::FinishLater(grpc::CallbackServerContext* context,
                                                        std::function<absl::Status()> work) {
  // Context, request and response live until the reactor is finished.
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  const absl::Status queued = unary_.Push(
      [context, reactor, work = std::move(work)] { FinishUnary(*context, *reactor, work()); });
  if (!queued.ok()) FinishUnary(*context, *reactor, WithRetryAfter(queued, kUnaryRetrySeconds));
  return reactor;
}

grpc::ServerUnaryReactor* InferenceService::Tokenize(grpc::CallbackServerContext* context,
                                                     const grpc::ByteBuffer* request,
                                                     grpc::ByteBuffer* response) {
  return FinishLater(context, [this, request, response] {
    return AnswerCall<v1::TokenizeRequest, v1::TokenizeResponse>(
        request, response, [this](const auto& in, auto& out) { return TokenizeNow(in, out); });
  });
}

absl::Status InferenceService::TokenizeNow(const v1::TokenizeRequest& request,
                                           v1::TokenizeResponse& response) const {
  if (request.messages_size() > 0 && !request.text().empty()) {
    return InvalidField("messages", "messages and text are both given, one of them is needed");
  }
  const auto ids = request.messages_size() > 0
                       ? intake_.TokenizeChat(request.model(),
                                              ChatFromProto(request.messages(), request.tools()))
                       : intake_.Tokenize(request.model(), request.text(), request.parse_special());
  RETURN_IF_ERROR(ids.status());
  response.mutable_tokens()->mutable_ids()->Add(ids->begin(), ids->end());
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* InferenceService::Detokenize(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request,
                                                       grpc::ByteBuffer* response) {
  return FinishLater(context, [this, request, response] {
    return AnswerCall<v1::DetokenizeRequest, v1::DetokenizeResponse>(
        request, response, [this](const auto& in, auto& out) { return DetokenizeNow(in, out); });
  });
}

absl::Status InferenceService::DetokenizeNow(const v1::DetokenizeRequest& request,
                                             v1::DetokenizeResponse& response) const {
  const auto& ids = request.tokens().ids();
  ASSIGN_OR_RETURN(
      std::string text,
      intake_.Detokenize(request.model(), std::vector<TokenId>(ids.begin(), ids.end())));
  response.set_text(std::move(text));
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* InferenceService::ListModels(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request,
                                                       grpc::ByteBuffer* response) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  const auto answer = [this](const v1::ListModelsRequest&, v1::ListModelsResponse& out) {
    for (const ModelInfo& model : intake_.Models()) *out.add_models() = ToProto(model);
    return absl::OkStatus();
  };
  FinishUnary(*context, *reactor,
              AnswerCall<v1::ListModelsRequest, v1::ListModelsResponse>(request, response, answer));
  return reactor;
}

grpc::ServerUnaryReactor* InferenceService::GetModel(grpc::CallbackServerContext* context,
                                                     const grpc::ByteBuffer* request,
                                                     grpc::ByteBuffer* response) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  const auto answer = [this](const v1::GetModelRequest& in, v1::Model& out) -> absl::Status {
    std::vector<std::string> served;
    for (const ModelInfo& model : intake_.Models()) {
      if (model.id == in.model()) {
        out = ToProto(model);
        return absl::OkStatus();
      }
      served.push_back(model.id);
    }
    return UnknownModel(in.model(), absl::StrJoin(served, "', '"));
  };
  FinishUnary(*context, *reactor,
              AnswerCall<v1::GetModelRequest, v1::Model>(request, response, answer));
  return reactor;
}

}  // namespace longhaul::router::rpc
