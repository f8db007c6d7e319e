#include "worker/leader/worker_service.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "longhaul/v1/worker.grpc.pb.h"
#include "worker/leader/execute_call.h"
#include "worker/leader/listen_address.h"
#include "worker/leader/watch_call.h"

namespace longhaul::worker::leader {
namespace {

// The largest message is a PromptChunk; a header with 1,024 biases is far smaller.
constexpr int kMaxReceiveBytes = 1 << 20;
constexpr int kMaxSendBytes = 4 << 20;

// Tells grpc.health.v1 what the board says.
class HealthUpdater final : public LoadBoard::Watcher {
 public:
  explicit HealthUpdater(LoadBoard& board) : board_(board) {}
  void SetService(grpc::HealthCheckServiceInterface* health) EXCLUDES(mutex_) {
    {
      MutexLock lock(mutex_);
      health_ = health;
    }
    OnLoad();
  }
  void OnLoad() override EXCLUDES(mutex_) {
    const Load load = board_.Get();
    const bool serving = load.ready() && !load.draining;
    MutexLock lock(mutex_);
    if (health_ == nullptr || serving_ == serving) return;
    serving_ = serving;
    health_->SetServingStatus(serving);  // of the server as a whole
    health_->SetServingStatus(v1::Worker::service_full_name(), serving);
  }

 private:
  LoadBoard& board_;
  Mutex mutex_;
  grpc::HealthCheckServiceInterface* health_ GUARDED_BY(mutex_) = nullptr;
  std::optional<bool> serving_ GUARDED_BY(mutex_);
};

grpc::ServerUnaryReactor* FinishUnary(grpc::CallbackServerContext* context,
                                      const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish({static_cast<grpc::StatusCode>(status.code()), std::string(status.message())});
  return reactor;
}

}  // namespace

class WorkerService::Impl final : public v1::Worker::CallbackService {
 public:
  Impl(const ServedModel& model, Engine& engine, RequestTable& requests, LoadBoard& board,
       const Clock& clock)
      : model_(model),
        shared_{.model = model_,
                .engine = engine,
                .requests = requests,
                .board = board,
                .ticker = ticker_,
                .clock = clock},
        health_(std::make_shared<HealthUpdater>(board)) {}

  ~Impl() override { Shutdown(absl::ZeroDuration()); }

  absl::StatusOr<std::string> Listen(const std::string& address) {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port);
    builder.SetMaxReceiveMessageSize(kMaxReceiveBytes);
    builder.SetMaxSendMessageSize(kMaxSendBytes);
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    // A router that vanished without a word is noticed within 40 s and its requests are cancelled;
    // routers may ping every 10 s, with or without a call.
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 20'000);
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000);
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
    builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 9'000);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr) {
      return absl::UnavailableError(absl::StrCat("cannot listen for routers on ", address));
    }
    health_->SetService(server_->GetHealthCheckService());
    shared_.board.AddWatcher(health_);
    return ResolvedAddress(address, port);
  }

  void Shutdown(absl::Duration grace) {
    if (server_ == nullptr) return;
    shared_.board.RemoveWatcher(health_.get());
    health_->SetService(nullptr);
    server_->Shutdown(absl::ToChronoTime(absl::Now() + grace));
    server_.reset();
  }

  grpc::ServerWriteReactor<v1::WatchEvent>* Watch(grpc::CallbackServerContext*,
                                                  const v1::WatchRequest* request) override {
    return NewWatchCall(shared_, *request);
  }
  grpc::ServerBidiReactor<v1::ExecuteRequest, v1::ExecuteEvent>* Execute(
      grpc::CallbackServerContext* context) override {
    return NewExecuteCall(shared_, context);
  }
  grpc::ServerWriteReactor<v1::ExecuteEvent>* Attach(grpc::CallbackServerContext* context,
                                                     const v1::AttachRequest* request) override {
    return NewAttachCall(shared_, context, *request);
  }
  grpc::ServerUnaryReactor* Cancel(grpc::CallbackServerContext* context,
                                   const v1::CancelRequest* request,
                                   v1::CancelResponse* response) override {
    const RequestId id = FromProto(request->request_id());
    const std::shared_ptr<EventLog> log = shared_.requests.Find(id);
    response->set_was_running(log != nullptr && !log->closed());
    return FinishUnary(context, shared_.engine.Cancel(id));
  }
  grpc::ServerUnaryReactor* Drain(grpc::CallbackServerContext* context,
                                  const v1::DrainRequest* request,
                                  v1::DrainResponse* response) override {
    absl::Time deadline = absl::InfiniteFuture();
    if (request->has_deadline_seconds()) {
      if (!(request->deadline_seconds() >= 0)) {
        return FinishUnary(context, absl::InvalidArgumentError(absl::StrCat(
                                        "deadline_seconds is ", request->deadline_seconds())));
      }
      deadline = shared_.clock.Now() + absl::Seconds(request->deadline_seconds());
    }
    const Load load = shared_.board.Get();
    response->set_running_requests(load.running_requests + load.waiting_requests);
    return FinishUnary(context, shared_.engine.Drain(deadline));
  }

 private:
  const ServedModel model_;
  CallTicker ticker_;
  CallContext shared_;
  const std::shared_ptr<HealthUpdater> health_;
  std::unique_ptr<grpc::Server> server_;
};

absl::StatusOr<std::unique_ptr<WorkerService>> WorkerService::Start(
    const std::string& address, const ServedModel& model, Engine& engine, RequestTable& requests,
    LoadBoard& board, const Clock& clock) {
  auto impl = std::make_unique<Impl>(model, engine, requests, board, clock);
  absl::StatusOr<std::string> resolved = impl->Listen(address);
  if (!resolved.ok()) return resolved.status();
  return std::unique_ptr<WorkerService>(new WorkerService(*std::move(resolved), std::move(impl)));
}

WorkerService::WorkerService(std::string address, std::unique_ptr<Impl> impl)
    : address_(std::move(address)), impl_(std::move(impl)) {}

WorkerService::~WorkerService() = default;

void WorkerService::Shutdown(absl::Duration grace) { impl_->Shutdown(grace); }

}  // namespace longhaul::worker::leader
