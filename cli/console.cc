#include "cli/console.h"

#include <unistd.h>

#include <cerrno>

#include "absl/time/clock.h"

namespace longhaul::cli {
namespace {

constexpr absl::Duration kRedrawPeriod = absl::Milliseconds(100);
constexpr absl::Duration kLinePeriod = absl::Seconds(3);
constexpr std::string_view kEraseLine = "\r\x1b[K";

}  // namespace

Console::Console(int fd) : fd_(fd), is_terminal_(isatty(fd) == 1) {}

Console::~Console() { ClearState(); }

void Console::Line(std::string_view text) {
  MutexLock lock(mutex_);
  std::string bytes;
  if (drawn_) bytes = kEraseLine;
  drawn_ = false;
  bytes += text;
  bytes += '\n';
  Write(bytes);
}

void Console::State(const std::string& text) {
  MutexLock lock(mutex_);
  const absl::Time now = absl::Now();
  if (now < next_state_) return;
  next_state_ = now + (is_terminal_ ? kRedrawPeriod : kLinePeriod);
  if (!is_terminal_) return Write(text + "\n");
  Write(std::string(kEraseLine) + text);
  drawn_ = true;
}

void Console::ClearState() {
  MutexLock lock(mutex_);
  if (drawn_) Write(kEraseLine);
  drawn_ = false;
}

// What a console does not take is lost: there is nowhere to say so.
void Console::Write(std::string_view bytes) const {
  while (!bytes.empty()) {
    const ssize_t size = write(fd_, bytes.data(), bytes.size());
    if (size < 0 && errno == EINTR) continue;
    if (size <= 0) return;
    bytes.remove_prefix(static_cast<size_t>(size));
  }
}

}  // namespace longhaul::cli
