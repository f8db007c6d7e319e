#pragma once

#include <string>
#include <string_view>

#include "absl/time/time.h"
#include "common/mutex.h"

namespace longhaul::cli {

// What a person reads while something long runs: lines, and the state of things. On a terminal the
// state is the bottom line, drawn anew in place; elsewhere it is a line every few seconds.
// Thread-safe. Writing blocks as long as the reader of the file descriptor does.
class Console {
 public:
  explicit Console(int fd);
  // Takes the state away.
  ~Console();
  Console(const Console&) = delete;
  Console& operator=(const Console&) = delete;

  void Line(std::string_view text) EXCLUDES(mutex_);

  // Replaces the state: one line without control characters. May be called as often as it changes.
  void State(const std::string& text) EXCLUDES(mutex_);
  void ClearState() EXCLUDES(mutex_);

 private:
  void Write(std::string_view bytes) const;

  const int fd_;
  const bool is_terminal_;
  Mutex mutex_;
  bool drawn_ GUARDED_BY(mutex_) = false;  // a state is on the terminal's bottom line
  absl::Time next_state_ GUARDED_BY(mutex_) = absl::InfinitePast();  // not before then
};

}  // namespace longhaul::cli
