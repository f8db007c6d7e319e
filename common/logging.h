#pragma once

#include <sstream>

namespace longhaul {

enum class LogSeverity { kDebug, kInfo, kWarning, kError, kFatal };

// Lines below `severity` are dropped; the default is kInfo. Thread-safe.
void SetMinLogSeverity(LogSeverity severity);
bool LogEnabled(LogSeverity severity);

// The program's name in each line ("router", "leader"), set once by main before threads start.
void SetLogProgram(const char* name);

namespace internal {

// One line, written to standard error with one write(2) at the end of the full expression:
//   2026-01-31T12:00:00.123456Z I router dispatcher.cc:42 request=... event=dispatched
class LogLine {
 public:
  LogLine(LogSeverity severity, const char* file, int line);
  ~LogLine();  // kFatal aborts
  LogLine(const LogLine&) = delete;
  LogLine& operator=(const LogLine&) = delete;
  std::ostream& stream() { return stream_; }

 private:
  const LogSeverity severity_;
  std::ostringstream stream_;
};

// Gives the streamed expression the type void, so that both arms of ?: agree.
struct LogVoidify {
  void operator&(std::ostream&) const {}
};

}  // namespace internal
}  // namespace longhaul

// LOG(INFO) << "request=" << id << " event=admitted"; one line per change of state, with ids, never
// prompts, never per token. Severities: DEBUG, INFO, WARNING, ERROR, FATAL (aborts).
#define LOG(severity)                              \
  !::longhaul::LogEnabled(LONGHAUL_LOG_##severity) \
      ? (void)0                                    \
      : ::longhaul::internal::LogVoidify() &       \
            ::longhaul::internal::LogLine(LONGHAUL_LOG_##severity, __FILE__, __LINE__).stream()
#define LONGHAUL_LOG_DEBUG ::longhaul::LogSeverity::kDebug
#define LONGHAUL_LOG_INFO ::longhaul::LogSeverity::kInfo
#define LONGHAUL_LOG_WARNING ::longhaul::LogSeverity::kWarning
#define LONGHAUL_LOG_ERROR ::longhaul::LogSeverity::kError
#define LONGHAUL_LOG_FATAL ::longhaul::LogSeverity::kFatal

// A broken invariant ends the process: CHECK(begin < end) << "begin=" << begin << " end=" << end;
#define CHECK(condition)                                                                       \
  (condition)                                                                                  \
      ? (void)0                                                                                \
      : ::longhaul::internal::LogVoidify() &                                                   \
            ::longhaul::internal::LogLine(::longhaul::LogSeverity::kFatal, __FILE__, __LINE__) \
                    .stream()                                                                  \
                << "CHECK failed: " #condition " "
