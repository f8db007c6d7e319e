#pragma once

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace longhaul {

// A program that this process started, in a process group of its own, and that ends with it: the
// kernel kills the child when the thread that started it ends (PR_SET_PDEATHSIG), so start children
// from a thread that lives as long as they should. Thread-compatible.
class Subprocess {
 public:
  struct Options {
    std::vector<std::string> argv;  // argv[0] is the path of the program
    std::vector<std::pair<std::string, std::string>> extra_env;  // added to our environment
    bool capture_stdout = false;                                 // readable by ReadLine; else ours
    int stderr_fd = -1;                                          // its standard error; -1 = ours
  };

  // How a process ended.
  struct Exit {
    int code = 0;                  // exit code, meaningful if signal is 0
    int signal = 0;                // the signal that killed it
    std::string ToString() const;  // "exit code 3", "signal 9 (Killed)"
  };

  // Errors: kNotFound (no such program), kPermissionDenied, kInternal (errno in the message). The
  // child has all signals unblocked and default handlers.
  static absl::StatusOr<std::unique_ptr<Subprocess>> Start(const Options& options);

  // Kills (SIGKILL) and reaps a child that still runs.
  ~Subprocess();
  Subprocess(const Subprocess&) = delete;
  Subprocess& operator=(const Subprocess&) = delete;

  pid_t pid() const { return pid_; }

  // How it ended, or nullopt while it runs. Does not block.
  std::optional<Exit> Poll();

  // Blocks until it ends (no polling); nullopt if `deadline` comes first.
  std::optional<Exit> Wait(absl::Time deadline);

  // Sends `signal`; does nothing if it has ended.
  void Signal(int signal);

  // SIGTERM, then SIGKILL after `grace`; returns how it ended.
  Exit Stop(absl::Duration grace);

  // The next line of its standard output without the newline. kDeadlineExceeded, or kOutOfRange at
  // the end of the output. Lines over 64 KiB are kResourceExhausted. Needs capture_stdout.
  absl::StatusOr<std::string> ReadLine(absl::Time deadline);

 private:
  Subprocess(pid_t pid, int pidfd, int stdout_fd)
      : pid_(pid), pidfd_(pidfd), stdout_fd_(stdout_fd) {}

  const pid_t pid_;
  const int pidfd_;      // readable when the process has ended
  const int stdout_fd_;  // -1 unless captured
  std::string buffer_;   // read, not yet returned
  std::optional<Exit> exit_;
};

// The folder of the running program: where its siblings are.
absl::StatusOr<std::string> ProgramFolder();

}  // namespace longhaul
