#include "common/logging.h"

#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace longhaul {
namespace {

std::atomic<LogSeverity> min_severity{LogSeverity::kInfo};
std::atomic<const char*> program{"longhaul"};

}  // namespace

void SetMinLogSeverity(LogSeverity severity) {
  min_severity.store(severity, std::memory_order_relaxed);
}

bool LogEnabled(LogSeverity severity) {
  return severity >= min_severity.load(std::memory_order_relaxed);
}

void SetLogProgram(const char* name) { program.store(name, std::memory_order_relaxed); }

namespace internal {

LogLine::LogLine(LogSeverity severity, const char* file, int line) : severity_(severity) {
  const char* base = std::strrchr(file, '/');
  stream_ << absl::FormatTime("%Y-%m-%d%ET%H:%M:%E6SZ", absl::Now(), absl::UTCTimeZone()) << ' '
          << "DIWEF"[static_cast<int>(severity)] << ' ' << program.load(std::memory_order_relaxed)
          << ' ' << (base == nullptr ? file : base + 1) << ':' << line << ' ';
}

LogLine::~LogLine() {
  stream_ << '\n';
  const std::string text = stream_.str();
  // One write a line, so that lines of several threads and processes do not mix. A failed write to
  // standard error has nowhere to be reported.
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, text.data(), text.size());
  if (severity_ == LogSeverity::kFatal) std::abort();
}

}  // namespace internal
}  // namespace longhaul
