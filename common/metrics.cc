#include "common/metrics.h"

#include <netdb.h>
#include <prometheus/exposer.h>
#include <prometheus/text_serializer.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <exception>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"

namespace longhaul {
namespace {

// One accepting thread and one to answer: a scrape every few seconds.
constexpr size_t kServerThreads = 2;
constexpr auto kKnockPeriod = std::chrono::milliseconds(5);

// Opens a connection to `address` (host:port of a server of this machine) and closes it.
void Knock(const std::string& address) {
  const size_t colon = address.rfind(':');
  std::string host = address.substr(0, colon);
  if (host.size() > 2 && host.front() == '[') host = host.substr(1, host.size() - 2);
  const addrinfo hints{.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM};
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), address.c_str() + colon + 1, &hints, &found) != 0) return;
  const int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd >= 0) {
    // Whether it succeeds does not matter: the server may have closed its port already.
    [[maybe_unused]] const int refused = connect(fd, found->ai_addr, found->ai_addrlen);
    close(fd);
  }
  freeaddrinfo(found);
}

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
    return std::unique_ptr<MetricsServer>(new MetricsServer(
        std::move(registry), std::move(exposer), address.substr(0, address.rfind(':')), port));
  } catch (const std::exception& error) {  // civetweb throws when it cannot bind
    return absl::UnavailableError(
        absl::StrCat("cannot serve metrics on ", address, ": ", error.what()));
  }
}

MetricsServer::MetricsServer(std::shared_ptr<prometheus::Registry> registry,
                             std::unique_ptr<prometheus::Exposer> exposer, std::string host,
                             int port)
    : registry_(std::move(registry)),
      exposer_(std::move(exposer)),
      host_(std::move(host)),
      port_(port) {}

// civetweb's accepting thread sees the wish to stop when a connection comes, or after 2 s.
MetricsServer::~MetricsServer() {
  std::atomic<bool> stopped = false;
  std::thread stopper([this, &stopped] {
    exposer_.reset();
    stopped = true;
  });
  while (!stopped) {
    Knock(absl::StrCat(host_, ":", port_));
    std::this_thread::sleep_for(kKnockPeriod);
  }
  stopper.join();
}

}  // namespace longhaul
