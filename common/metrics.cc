#include "common/metrics.h"

#include <prometheus/exposer.h>
#include <prometheus/text_serializer.h>

#include <exception>
#include <utility>

#include "absl/strings/str_cat.h"

namespace longhaul {
namespace {

// One accepting thread and one to answer: a scrape every few seconds.
constexpr size_t kServerThreads = 2;

}  // namespace

std::vector<double> FirstTokenBuckets() {
  return {0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1,   2.5,  5,    10,  20,
          40,   60,    90,   120, 180,  300, 600, 1200, 2400, 3600};
}

std::vector<double> StepBuckets() {
  return {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30};
}

std::string RenderMetrics(const prometheus::Registry& registry) {
  return prometheus::TextSerializer().Serialize(registry.Collect());
}

absl::StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Start(
    const std::string& address, std::shared_ptr<prometheus::Registry> registry) {
  try {
    auto exposer = std::make_unique<prometheus::Exposer>(address, kServerThreads);
    exposer->RegisterCollectable(registry);
    const int port = exposer->GetListeningPorts().at(0);
    return std::unique_ptr<MetricsServer>(
        new MetricsServer(std::move(registry), std::move(exposer), port));
  } catch (const std::exception& error) {  // civetweb throws when it cannot bind
    return absl::UnavailableError(
        absl::StrCat("cannot serve metrics on ", address, ": ", error.what()));
  }
}

MetricsServer::MetricsServer(std::shared_ptr<prometheus::Registry> registry,
                             std::unique_ptr<prometheus::Exposer> exposer, int port)
    : registry_(std::move(registry)), exposer_(std::move(exposer)), port_(port) {}

MetricsServer::~MetricsServer() = default;

}  // namespace longhaul
