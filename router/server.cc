#include "router/server.h"

#include <memory>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "router/cluster_watch.h"
#include "router/dispatcher.h"
#include "router/intake_service.h"
#include "router/rest/http_gateway.h"
#include "router/router_metrics.h"
#include "router/rpc/grpc_frontend.h"
#include "router/served_model.h"
#include "router/worker_channels.h"
#include "router/worker_client.h"

namespace longhaul::router {
namespace {

// For answers that are complete but not read yet, after all requests have ended.
constexpr absl::Duration kFlushGrace = absl::Seconds(1);

uint64_t RandomSeed() {
  std::random_device entropy;
  return (uint64_t{entropy()} << 32) | entropy();
}

DispatcherOptions DispatcherOptionsOf(const RouterConfig& config) {
  return {.max_requests = config.max_requests,
          .max_prompt_bytes = int64_t{config.max_prompt_mib} << 20,
          .max_queued = config.max_queued,
          .wait_for_group = absl::Seconds(config.worker_wait_seconds)};
}

IntakeOptions IntakeOptionsOf(const RouterConfig& config) {
  return {.max_waiting = static_cast<size_t>(config.max_requests),
          .default_timeout = absl::Seconds(config.default_timeout_seconds),
          .max_timeout = absl::Seconds(config.max_timeout_seconds),
          .max_prompt_logprobs_tokens = config.max_prompt_logprobs_tokens};
}

rpc::GrpcFrontendOptions GrpcOptionsOf(const RouterConfig& config) {
  return {.host = config.host,
          .port = config.grpc_port,
          .max_message_bytes = int64_t{config.max_request_mib} << 20,
          .memory_bytes = int64_t{config.grpc_memory_mib} << 20,
          .max_concurrent_streams = config.grpc_max_streams,
          .slow_reader = absl::Seconds(config.slow_reader_seconds),
          .max_connection_age = absl::Seconds(config.grpc_connection_age_seconds),
          .reflection = config.grpc_reflection};
}

absl::StatusOr<rest::HttpOptions> HttpOptionsOf(const RouterConfig& config) {
  rest::HttpOptions options;
  ASSIGN_OR_RETURN(options.cors, rest::CorsPolicy::For(config.allowed_origins));
  options.host = config.host;
  options.port = config.port;
  options.max_body_bytes = int64_t{config.max_request_mib} << 20;
  options.write_timeout = absl::Seconds(config.slow_reader_seconds);
  return options;
}

}  // namespace

absl::Status RunRouter(const RouterConfig& config,
                       const std::function<void(const RouterAddresses&)>& on_ready,
                       const std::function<void()>& wait_for_stop) {
  if (config.model.empty()) return absl::InvalidArgumentError("--model is not given");
  if (config.worker.empty()) return absl::InvalidArgumentError("--worker is not given");
  ASSIGN_OR_RETURN(const ServedModel model,
                   ServedModel::Load(config.model, config.served_model_name, config.max_model_len));
  ASSIGN_OR_RETURN(rest::HttpOptions http_options, HttpOptionsOf(config));
  // Destroyed in reverse: who calls is gone before who is called.
  const SystemClock clock;
  RouterMetrics metrics;
  const WorkerChannels channels(config.worker);
  ClusterWatch cluster({.addresses = config.worker,
                        .model = model.name,
                        .stale_after = absl::Seconds(config.worker_silence_seconds),
                        .jitter_seed = RandomSeed()},
                       channels, clock, metrics);
  const WorkerClient workers(channels, clock);
  Dispatcher dispatcher(DispatcherOptionsOf(config), *model.tokenizer, cluster, workers, clock,
                        metrics);
  IntakeService intake(IntakeOptionsOf(config), model, cluster, dispatcher, clock, metrics,
                       RandomSeed());
  ASSIGN_OR_RETURN(const std::unique_ptr<rpc::GrpcFrontend> grpc,
                   rpc::GrpcFrontend::Start(GrpcOptionsOf(config), intake, clock));
  ASSIGN_OR_RETURN(const std::unique_ptr<rest::HttpGateway> http,
                   rest::HttpGateway::Start(std::move(http_options), intake, metrics.registry()));
  cluster.Start([&] {
    dispatcher.ViewChanged();
    grpc->SetServing(intake.Ready());
  });
  on_ready({.rest = absl::StrCat(config.host, ":", http->port()),
            .grpc = absl::StrCat(config.host, ":", grpc->port())});

  wait_for_stop();
  grpc->BeginShutdown();
  dispatcher.Stop(absl::Seconds(config.shutdown_seconds));
  cluster.Stop();
  http->Stop();
  grpc->Stop(kFlushGrace);
  return absl::OkStatus();
}

}  // namespace longhaul::router
