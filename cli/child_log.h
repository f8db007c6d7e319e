#pragma once

#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <thread>

#include "absl/status/statusor.h"
#include "cli/console.h"
#include "common/mutex.h"

namespace longhaul::cli {

// Standard error of child processes, reduced to what a person must see: of lines in the form of
// common/logging.h those from warnings on, and all others. While it holds back (at first; while
// programs start and stop, they warn of each other's absence) the newest of them wait for Release.
//
// A pipe and a thread that reads it. Thread-safe.
class ChildLog {
 public:
  // `console` outlives it. kUnavailable: no file descriptors left.
  static absl::StatusOr<std::unique_ptr<ChildLog>> Start(Console& console);
  // Reads what has been written so far, then stops.
  ~ChildLog();
  ChildLog(const ChildLog&) = delete;
  ChildLog& operator=(const ChildLog&) = delete;

  // For the children's standard error.
  int write_fd() const { return write_fd_; }

  // From here on, lines are kept back: the newest 50, each up to 4 KiB.
  void Hold() EXCLUDES(mutex_);
  // From here on, lines are passed on; those kept back are dropped, or shown first.
  enum class Kept { kDrop, kShow };
  void Release(Kept kept) EXCLUDES(mutex_);

 private:
  ChildLog(Console& console, int read_fd, int write_fd, int stop_fd);
  void Run();
  void Take(std::string_view line) EXCLUDES(mutex_);

  Console& console_;
  const int read_fd_;
  const int write_fd_;
  const int stop_fd_;  // readable when the thread is to end
  Mutex mutex_;
  bool holding_ GUARDED_BY(mutex_) = true;
  std::deque<std::string> kept_ GUARDED_BY(mutex_);
  std::thread thread_;
};

// A line in the form of common/logging.h that is below a warning.
bool IsMinorLogLine(std::string_view line);

}  // namespace longhaul::cli
