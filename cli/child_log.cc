#include "cli/child_log.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/logging.h"

namespace longhaul::cli {
namespace {

constexpr size_t kMaxKept = 50;
constexpr size_t kMaxLineBytes = 4096;

}  // namespace

// "2026-01-31T12:00:00.123456Z I router dispatcher.cc:42 ..."
bool IsMinorLogLine(std::string_view line) {
  constexpr size_t kStampLength = 27;
  if (line.size() < kStampLength + 3) return false;
  if (!absl::ascii_isdigit(static_cast<unsigned char>(line[0])) || line[10] != 'T') return false;
  if (line[kStampLength - 1] != 'Z' || line[kStampLength] != ' ') return false;
  const char severity = line[kStampLength + 1];
  return line[kStampLength + 2] == ' ' && (severity == 'I' || severity == 'D');
}

absl::StatusOr<std::unique_ptr<ChildLog>> ChildLog::Start(Console& console) {
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) {
    return absl::UnavailableError(absl::StrCat("cannot make a pipe: ", strerror(errno)));
  }
  const int stop_fd = eventfd(0, EFD_CLOEXEC);
  if (stop_fd < 0) {
    const int error = errno;
    close(ends[0]);
    close(ends[1]);
    return absl::UnavailableError(absl::StrCat("cannot make an eventfd: ", strerror(error)));
  }
  return std::unique_ptr<ChildLog>(new ChildLog(console, ends[0], ends[1], stop_fd));
}

ChildLog::ChildLog(Console& console, int read_fd, int write_fd, int stop_fd)
    : console_(console), read_fd_(read_fd), write_fd_(write_fd), stop_fd_(stop_fd) {
  thread_ = std::thread([this] { Run(); });
}

ChildLog::~ChildLog() {
  const uint64_t one = 1;
  CHECK(write(stop_fd_, &one, sizeof(one)) == sizeof(one)) << strerror(errno);
  thread_.join();
  for (const int fd : {read_fd_, write_fd_, stop_fd_}) close(fd);
}

void ChildLog::Hold() {
  MutexLock lock(mutex_);
  holding_ = true;
}

void ChildLog::Release(Kept kept) {
  std::deque<std::string> lines;
  {
    MutexLock lock(mutex_);
    holding_ = false;
    lines.swap(kept_);
  }
  if (kept == Kept::kDrop) return;
  for (const std::string& line : lines) console_.Line(line);
}

void ChildLog::Run() {
  std::string buffer;
  std::array<char, kMaxLineBytes> piece;
  while (true) {
    std::array<pollfd, 2> entries = {pollfd{.fd = read_fd_, .events = POLLIN, .revents = 0},
                                     pollfd{.fd = stop_fd_, .events = POLLIN, .revents = 0}};
    if (poll(entries.data(), entries.size(), -1) < 0) {
      CHECK(errno == EINTR) << strerror(errno);
      continue;
    }
    if ((entries[0].revents & POLLIN) == 0) break;  // asked to stop, and all is read
    const ssize_t size = read(read_fd_, piece.data(), piece.size());
    if (size <= 0) continue;
    buffer.append(piece.data(), static_cast<size_t>(size));
    size_t begin = 0;
    for (size_t end = 0; (end = buffer.find('\n', begin)) != std::string::npos; begin = end + 1) {
      Take(std::string_view(buffer).substr(begin, end - begin));
    }
    buffer.erase(0, begin);
    if (buffer.size() > kMaxLineBytes) {  // goes on as a line of its own
      Take(buffer);
      buffer.clear();
    }
  }
  if (!buffer.empty()) Take(buffer);
}

void ChildLog::Take(std::string_view line) {
  if (IsMinorLogLine(line)) return;
  {
    MutexLock lock(mutex_);
    if (holding_) {
      if (kept_.size() == kMaxKept) kept_.pop_front();
      kept_.emplace_back(line.substr(0, kMaxLineBytes));
      return;
    }
  }
  console_.Line(line);
}

}  // namespace longhaul::cli
