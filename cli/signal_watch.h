#pragma once

#include <optional>

#include "absl/time/time.h"

namespace longhaul::cli {

// SIGTERM, SIGINT, SIGHUP and SIGCHLD as a file descriptor. They are blocked for the process from
// construction on, so it must be made before other threads exist. Thread-compatible.
class SignalWatch {
 public:
  SignalWatch();
  ~SignalWatch();
  SignalWatch(const SignalWatch&) = delete;
  SignalWatch& operator=(const SignalWatch&) = delete;

  // The next signal, or nullopt after `timeout`.
  std::optional<int> Next(absl::Duration timeout);

  // The first signal returned so far that asks the process to stop.
  std::optional<int> stop_signal() const { return stop_signal_; }

  // Readable when Next would return at once.
  int fd() const { return fd_; }

 private:
  int fd_ = -1;
  std::optional<int> stop_signal_;
};

}  // namespace longhaul::cli
