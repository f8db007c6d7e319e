#include "cli/cluster_loop.h"

#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/logging.h"

namespace longhaul::cli {

ClusterLoop::ClusterLoop(const LocalCluster& cluster, SignalWatch& signals)
    : cluster_(cluster), signals_(signals), context_(1), signal_fd_(context_) {
  const int duplicate = dup(signals.fd());
  CHECK(duplicate >= 0) << strerror(errno);
  signal_fd_.assign(duplicate);
}

void ClusterLoop::Run(OnTrouble on_trouble) {
  on_trouble_ = std::move(on_trouble);
  Watch();
  context_.run();
}

void ClusterLoop::Watch() {
  // Looked at before each wait: a program may have ended before the loop began.
  absl::Status trouble = cluster_.CheckAlive();
  while (trouble.ok()) {
    const std::optional<int> signal = signals_.Next(absl::ZeroDuration());
    if (!signal.has_value()) break;
    trouble = signal == SIGCHLD
                  ? cluster_.CheckAlive()
                  : absl::CancelledError(absl::StrCat("stopped by ", strsignal(*signal)));
  }
  if (!trouble.ok()) return on_trouble_(trouble);
  signal_fd_.async_wait(boost::asio::posix::stream_descriptor::wait_read,
                        [this](const boost::system::error_code& error) {
                          if (!error) Watch();
                        });
}

}  // namespace longhaul::cli
