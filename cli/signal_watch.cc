#include "cli/signal_watch.h"

#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "common/logging.h"

namespace longhaul::cli {

SignalWatch::SignalWatch() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGCHLD}) sigaddset(&set, signal);
  CHECK(pthread_sigmask(SIG_BLOCK, &set, nullptr) == 0);
  fd_ = signalfd(-1, &set, SFD_CLOEXEC);
  CHECK(fd_ >= 0) << strerror(errno);
}

SignalWatch::~SignalWatch() { close(fd_); }

std::optional<int> SignalWatch::Next(absl::Duration timeout) {
  const int timeout_ms = timeout == absl::InfiniteDuration()
                             ? -1
                             : static_cast<int>(absl::ToInt64Milliseconds(timeout));
  pollfd entry{.fd = fd_, .events = POLLIN, .revents = 0};
  if (poll(&entry, 1, timeout_ms) <= 0) return std::nullopt;
  signalfd_siginfo info{};
  if (read(fd_, &info, sizeof(info)) != sizeof(info)) return std::nullopt;
  const int signal = static_cast<int>(info.ssi_signo);
  if (signal != SIGCHLD && !stop_signal_.has_value()) stop_signal_ = signal;
  return signal;
}

}  // namespace longhaul::cli
