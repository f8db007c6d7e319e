#include "router/rpc/grpc_frontend.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <atomic>
#include <functional>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "common/mutex.h"
#include "common/queue.h"
#include "longhaul/v1/inference.grpc.pb.h"
#include "router/error_detail.h"
#include "router/rpc/generate_stream.h"
#include "router/rpc/grpc_codec.h"

namespace longhaul::router::rpc {
namespace {

constexpr char kServiceName[] = "longhaul.v1.Inference";
// Clients that ping every 10 s or slower are welcome, also without calls; the server pings too, so
// that a client whose host vanished is noticed.
constexpr int kKeepaliveMs = 30'000;
constexpr int kKeepaliveTimeoutMs = 10'000;
constexpr int kMinPingIntervalMs = 10'000;
// Tokenize and Detokenize calls that wait for the thread that does them.
constexpr size_t kMaxWaitingUnary = 64;
constexpr double kUnaryRetrySeconds = 1;
constexpr absl::Duration kStallCheckInterval = absl::Seconds(1);

absl::Time DeadlineOf(const grpc::CallbackServerContext& context) {
  const auto deadline = context.deadline();
  if (deadline == std::chrono::system_clock::time_point::max()) return absl::InfiniteFuture();
  return absl::FromChrono(deadline);
}

void FinishUnary(grpc::CallbackServerContext& context, grpc::ServerUnaryReactor& reactor,
                 const absl::Status& status) {
  if (const std::string trailer = ErrorDetailTrailer(status); !trailer.empty()) {
    context.AddTrailingMetadata(kErrorDetailTrailer, trailer);
  }
  reactor.Finish(ToGrpc(status));
}

}  // namespace

class GrpcFrontend::Impl final : public v1::Inference::CallbackService {
 public:
  Impl(const GrpcFrontendOptions& options, Intake& intake, const Clock& clock)
      : options_(options), intake_(intake), clock_(clock), unary_(kMaxWaitingUnary) {}
  ~Impl() override { Stop(absl::ZeroDuration()); }

  absl::Status Listen();
  int port() const { return port_; }
  void SetServing(bool serving) {
    server_->GetHealthCheckService()->SetServingStatus(kServiceName, serving);
  }
  void BeginShutdown() { server_->GetHealthCheckService()->Shutdown(); }
  void Stop(absl::Duration grace);

  grpc::ServerWriteReactor<v1::GenerateEvent>* Chat(grpc::CallbackServerContext* context,
                                                    const v1::ChatRequest* request) override {
    return Generate(context, FromProto(*request));
  }
  grpc::ServerWriteReactor<v1::GenerateEvent>* Complete(
      grpc::CallbackServerContext* context, const v1::CompleteRequest* request) override {
    return Generate(context, FromProto(*request));
  }
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override;
  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context,
                                       const v1::ListModelsRequest*,
                                       v1::ListModelsResponse* response) override;
  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context,
                                     const v1::GetModelRequest* request,
                                     v1::Model* response) override;

 private:
  GenerateStream* Generate(grpc::CallbackServerContext* context, GenerateRequest request);
  // Runs `work` on the unary thread, which finishes the call: tokenizing may take seconds, and
  // gRPC's threads must not.
  grpc::ServerUnaryReactor* FinishLater(grpc::CallbackServerContext* context,
                                        std::function<absl::Status()> work);
  void RunUnary();
  void WatchStalls() EXCLUDES(mutex_);

  const GrpcFrontendOptions options_;
  Intake& intake_;
  const Clock& clock_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
  BoundedQueue<std::function<void()>> unary_;
  std::thread unary_thread_;
  std::thread stall_thread_;

  Mutex mutex_;
  CondVar streams_changed_;
  std::set<GenerateStream*> streams_ GUARDED_BY(mutex_);  // open ones
  bool stopping_ GUARDED_BY(mutex_) = false;
};

absl::Status GrpcFrontend::Impl::Listen() {
  grpc::EnableDefaultHealthCheckService(true);
  if (options_.reflection) grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  const std::string address = absl::StrCat(options_.host, ":", options_.port);
  grpc::ServerBuilder builder;
  builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port_);
  builder.RegisterService(this);
  builder.SetMaxReceiveMessageSize(static_cast<int>(options_.max_message_bytes));
  // gRPC decompresses whole messages before it looks at their size: 64 MiB may become 64 GiB.
  builder.SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_DEFLATE, false);
  builder.SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_GZIP, false);
  builder.SetResourceQuota(
      grpc::ResourceQuota("longhaul-router").Resize(static_cast<size_t>(options_.memory_bytes)));
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, options_.max_concurrent_streams);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                             kMinPingIntervalMs);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  builder.AddChannelArgument(
      GRPC_ARG_MAX_CONNECTION_AGE_MS,
      static_cast<int>(absl::ToInt64Milliseconds(options_.max_connection_age)));
  // Two routers on one port would each get half of the connections, unseen.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  server_ = builder.BuildAndStart();
  if (server_ == nullptr || port_ == 0) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", address, " (gRPC)"));
  }
  SetServing(false);
  unary_thread_ = std::thread([this] { RunUnary(); });
  stall_thread_ = std::thread([this] { WatchStalls(); });
  return absl::OkStatus();
}

void GrpcFrontend::Impl::Stop(absl::Duration grace) {
  {
    MutexLock lock(mutex_);
    if (stopping_) return;
    stopping_ = true;
  }
  if (server_ != nullptr) server_->Shutdown(absl::ToChronoTime(clock_.Now() + grace));
  unary_.Close();
  streams_changed_.SignalAll();
  if (unary_thread_.joinable()) unary_thread_.join();
  if (stall_thread_.joinable()) stall_thread_.join();
}

GenerateStream* GrpcFrontend::Impl::Generate(grpc::CallbackServerContext* context,
                                             GenerateRequest request) {
  request.deadline = DeadlineOf(*context);
  const auto traceparent = context->client_metadata().find("traceparent");
  if (traceparent != context->client_metadata().end()) {
    request.traceparent = std::string(traceparent->second.data(), traceparent->second.size());
  }
  const std::shared_ptr<GenerateStream> stream =
      GenerateStream::Create({.context = context,
                              .id = request.id,
                              .client_request_id = request.client_request_id,
                              .model = request.model},
                             intake_, clock_, [this](GenerateStream* done) {
                               MutexLock lock(mutex_);
                               streams_.erase(done);
                             });
  {
    MutexLock lock(mutex_);
    streams_.insert(stream.get());
  }
  streams_changed_.SignalAll();
  const absl::Status submitted = intake_.Submit(std::move(request), stream);
  if (!submitted.ok()) stream->OnError(submitted);
  return stream.get();
}

void GrpcFrontend::Impl::WatchStalls() {
  MutexLock lock(mutex_);
  while (!stopping_) {
    if (streams_.empty()) {
      streams_changed_.Wait(mutex_);
      continue;
    }
    // A stream leaves the set under this lock before it dies.
    for (GenerateStream* stream : streams_) stream->CancelIfStalled(options_.slow_reader);
    const absl::Time next = clock_.Now() + std::min(kStallCheckInterval, options_.slow_reader);
    while (!stopping_ && streams_changed_.WaitUntil(mutex_, next)) {
    }
  }
}

void GrpcFrontend::Impl::RunUnary() {
  while (const auto work = unary_.Pop(absl::InfiniteFuture())) (*work)();
}

grpc::ServerUnaryReactor* GrpcFrontend::Impl::FinishLater(grpc::CallbackServerContext* context,
                                                          std::function<absl::Status()> work) {
  // Context, request and response live until the reactor is finished.
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  const absl::Status queued = unary_.Push(
      [context, reactor, work = std::move(work)] { FinishUnary(*context, *reactor, work()); });
  if (!queued.ok()) FinishUnary(*context, *reactor, WithRetryAfter(queued, kUnaryRetrySeconds));
  return reactor;
}

grpc::ServerUnaryReactor* GrpcFrontend::Impl::Tokenize(grpc::CallbackServerContext* context,
                                                       const v1::TokenizeRequest* request,
                                                       v1::TokenizeResponse* response) {
  return FinishLater(context, [this, request, response]() -> absl::Status {
    if (request->messages_size() > 0 && !request->text().empty()) {
      return InvalidField("messages", "messages and text are both given, one of them is needed");
    }
    const auto ids =
        request->messages_size() > 0
            ? intake_.TokenizeChat(request->model(),
                                   ChatFromProto(request->messages(), request->tools()))
            : intake_.Tokenize(request->model(), request->text(), request->parse_special());
    if (!ids.ok()) return ids.status();
    response->mutable_tokens()->mutable_ids()->Add(ids->begin(), ids->end());
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* GrpcFrontend::Impl::Detokenize(grpc::CallbackServerContext* context,
                                                         const v1::DetokenizeRequest* request,
                                                         v1::DetokenizeResponse* response) {
  return FinishLater(context, [this, request, response]() -> absl::Status {
    const auto& ids = request->tokens().ids();
    absl::StatusOr<std::string> text =
        intake_.Detokenize(request->model(), std::vector<TokenId>(ids.begin(), ids.end()));
    if (!text.ok()) return text.status();
    response->set_text(*std::move(text));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* GrpcFrontend::Impl::ListModels(grpc::CallbackServerContext* context,
                                                         const v1::ListModelsRequest*,
                                                         v1::ListModelsResponse* response) {
  for (const ModelInfo& model : intake_.Models()) *response->add_models() = ToProto(model);
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

grpc::ServerUnaryReactor* GrpcFrontend::Impl::GetModel(grpc::CallbackServerContext* context,
                                                       const v1::GetModelRequest* request,
                                                       v1::Model* response) {
  absl::Status status =
      absl::NotFoundError(absl::StrCat("model '", request->model(), "' does not exist"));
  for (const ModelInfo& model : intake_.Models()) {
    if (model.id != request->model()) continue;
    *response = ToProto(model);
    status = absl::OkStatus();
  }
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  FinishUnary(*context, *reactor, status);
  return reactor;
}

GrpcFrontend::GrpcFrontend(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
GrpcFrontend::~GrpcFrontend() = default;
int GrpcFrontend::port() const { return impl_->port(); }
void GrpcFrontend::SetServing(bool serving) { impl_->SetServing(serving); }
void GrpcFrontend::BeginShutdown() { impl_->BeginShutdown(); }
void GrpcFrontend::Stop(absl::Duration grace) { impl_->Stop(grace); }

absl::StatusOr<std::unique_ptr<GrpcFrontend>> GrpcFrontend::Start(
    const GrpcFrontendOptions& options, Intake& intake, const Clock& clock) {
  auto impl = std::make_unique<Impl>(options, intake, clock);
  if (const absl::Status status = impl->Listen(); !status.ok()) return status;
  return std::unique_ptr<GrpcFrontend>(new GrpcFrontend(std::move(impl)));
}

}  // namespace longhaul::router::rpc
