#include "cli/serve.h"

#include <signal.h>

#include <iostream>
#include <memory>

#include "absl/time/time.h"
#include "cli/local_cluster.h"
#include "cli/signal_watch.h"
#include "common/status_macros.h"

namespace longhaul::cli {

absl::Status Serve(const std::string& model_dir, const ServeConfig& config) {
  SignalWatch signals;
  auto started = LocalCluster::Start({.model_dir = model_dir,
                                      .engine = config.engine,
                                      .host = config.host,
                                      .port = config.port,
                                      .grpc_port = config.grpc_port,
                                      .allowed_origins = config.allowed_origins},
                                     signals);
  if (absl::IsCancelled(started.status())) return absl::OkStatus();
  RETURN_IF_ERROR(started);
  const LocalCluster& cluster = **started;
  std::cout << "ready model=" << cluster.model() << " rest=http://" << cluster.rest()
            << "/v1 grpc=" << cluster.grpc() << std::endl;
  while (true) {
    RETURN_IF_ERROR(cluster.CheckAlive());
    const auto signal = signals.Next(absl::InfiniteDuration());
    if (signal.has_value() && signal != SIGCHLD) return absl::OkStatus();
  }
}

}  // namespace longhaul::cli
