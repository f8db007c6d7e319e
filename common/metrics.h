#pragma once

#include <prometheus/registry.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace prometheus {
class Exposer;
}

namespace longhaul {

// Upper bounds, in seconds, of histograms of time to first token: a million-token prompt takes
// minutes.
std::vector<double> FirstTokenBuckets();
// Upper bounds, in seconds, of the time between two tokens and of one unit of work.
std::vector<double> StepBuckets();

// The registry in Prometheus' text format. Thread-safe.
std::string RenderMetrics(const prometheus::Registry& registry);

// Serves GET /metrics of a registry on threads of its own. Thread-compatible.
class MetricsServer {
 public:
  // `address` is host:port, port 0 = any free one. kUnavailable if it cannot be bound.
  static absl::StatusOr<std::unique_ptr<MetricsServer>> Start(
      const std::string& address, std::shared_ptr<prometheus::Registry> registry);
  ~MetricsServer();

  int port() const { return port_; }

 private:
  MetricsServer(std::shared_ptr<prometheus::Registry> registry,
                std::unique_ptr<prometheus::Exposer> exposer, std::string host, int port);
  const std::shared_ptr<prometheus::Registry> registry_;  // the exposer holds a weak reference
  std::unique_ptr<prometheus::Exposer> exposer_;
  const std::string host_;
  const int port_;
};

}  // namespace longhaul
