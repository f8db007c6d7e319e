#include "router/rpc/grpc_frontend.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <atomic>
#include <utility>

#include "absl/strings/str_cat.h"
#include "router/rpc/inference_service.h"

namespace longhaul::router::rpc {
namespace {

constexpr char kServiceName[] = "longhaul.v1.Inference";

// gRPC allocates what a connection may read next before it waits for it, and an idle connection
// keeps that; by default up to 4 MiB. Holds without the experiment that router/main.cc turns off.
constexpr int kMaxReadBytes = 64 << 10;

int Milliseconds(absl::Duration duration) {
  return static_cast<int>(absl::ToInt64Milliseconds(duration));
}

}  // namespace

class GrpcFrontend::Impl {
 public:
  Impl(const GrpcFrontendOptions& options, Intake& intake, const Clock& clock)
      : options_(options), clock_(clock), service_(options.slow_reader, intake, clock) {}
  ~Impl() { Stop(absl::ZeroDuration()); }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  absl::Status Listen();
  int port() const { return port_; }
  void SetServing(bool serving) {
    server_->GetHealthCheckService()->SetServingStatus(kServiceName, serving);
  }
  void BeginShutdown() { server_->GetHealthCheckService()->Shutdown(); }
  void Stop(absl::Duration grace);

 private:
  const GrpcFrontendOptions options_;
  const Clock& clock_;
  int port_ = 0;
  InferenceService service_;
  std::unique_ptr<grpc::Server> server_;  // destroyed before the service, whose calls it runs
  std::atomic<bool> stopped_ = false;
};

absl::Status GrpcFrontend::Impl::Listen() {
  grpc::EnableDefaultHealthCheckService(true);
  if (options_.reflection) grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  const std::string address = absl::StrCat(options_.host, ":", options_.port);
  grpc::ServerBuilder builder;
  builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port_);
  builder.RegisterService(&service_);
  builder.SetMaxReceiveMessageSize(static_cast<int>(options_.max_message_bytes));
  // gRPC decompresses whole messages before it looks at their size: 64 MiB may become 64 GiB.
  builder.SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_DEFLATE, false);
  builder.SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_GZIP, false);
  builder.SetResourceQuota(
      grpc::ResourceQuota("longhaul-router").Resize(static_cast<size_t>(options_.memory_bytes)));
  builder.AddChannelArgument(GRPC_ARG_TCP_MAX_READ_CHUNK_SIZE, kMaxReadBytes);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, options_.max_concurrent_streams);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, Milliseconds(options_.keepalive));
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS,
                             Milliseconds(options_.keepalive_timeout));
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                             Milliseconds(options_.min_ping_interval));
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS,
                             Milliseconds(options_.max_connection_age));
  // Two routers on one port would each get half of the connections, unseen.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  server_ = builder.BuildAndStart();
  if (server_ == nullptr || port_ == 0) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", address, " (gRPC)"));
  }
  SetServing(false);
  return absl::OkStatus();
}

void GrpcFrontend::Impl::Stop(absl::Duration grace) {
  if (stopped_.exchange(true)) return;
  if (server_ != nullptr) server_->Shutdown(absl::ToChronoTime(clock_.Now() + grace));
  service_.Stop();
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
