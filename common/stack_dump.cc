#include "common/stack_dump.h"

#include <execinfo.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/mutex.h"

namespace longhaul {
namespace {

constexpr int kMaxFrames = 64;
constexpr size_t kMaxThreads = 256;
constexpr absl::Duration kAnswerLimit = absl::Milliseconds(200);
constexpr absl::Duration kLook = absl::Microseconds(200);

std::atomic<bool> prepared = false;
// What the handler is to do, and that it did: it may touch nothing else.
std::atomic<int> dump_fd = -1;
std::atomic<pid_t> wanted_thread = 0;

int SignalNumber() { return SIGRTMIN + 1; }

pid_t ThreadId() { return static_cast<pid_t>(syscall(SYS_gettid)); }

void OnSignal(int) {
  const int saved_errno = errno;
  if (wanted_thread.load() == ThreadId()) {  // else it came too late
    std::array<void*, kMaxFrames> frames;
    const int count = backtrace(frames.data(), kMaxFrames);
    backtrace_symbols_fd(frames.data(), count, dump_fd.load());
    wanted_thread.store(0);
  }
  errno = saved_errno;
}

void Write(int fd, const std::string& text) {
  size_t written = 0;
  while (written < text.size()) {
    const ssize_t count = write(fd, text.data() + written, text.size() - written);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return;  // nobody reads: nothing is lost but the dump
    written += static_cast<size_t>(count);
  }
}

std::string NameOf(pid_t thread) {
  std::string name;
  std::ifstream(absl::StrCat("/proc/self/task/", thread, "/comm")) >> name;
  return name;
}

}  // namespace

void PrepareStackDump() {
  // The first call loads a library, which a signal handler must not.
  std::array<void*, 1> frame;
  backtrace(frame.data(), 1);
  struct sigaction action = {};
  action.sa_handler = &OnSignal;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaction(SignalNumber(), &action, nullptr);
  prepared.store(true);
}

absl::Status DumpStacks(int fd) {
  static Mutex one_at_a_time;
  const MutexLock lock(one_at_a_time);
  if (!prepared.load()) return absl::FailedPreconditionError("PrepareStackDump was not called");
  std::vector<pid_t> threads;
  std::error_code error;
  for (std::filesystem::directory_iterator it("/proc/self/task", error), end;
       !error && it != end && threads.size() < kMaxThreads; it.increment(error)) {
    threads.push_back(std::atoi(it->path().filename().c_str()));
  }
  if (error) return absl::InternalError(absl::StrCat("/proc/self/task: ", error.message()));
  dump_fd.store(fd);
  for (const pid_t thread : threads) {
    Write(fd, absl::StrCat("thread ", thread, " ", NameOf(thread), "\n"));
    wanted_thread.store(thread);
    if (syscall(SYS_tgkill, getpid(), thread, SignalNumber()) != 0) continue;  // it has ended
    const absl::Time limit = absl::Now() + kAnswerLimit;
    while (wanted_thread.load() != 0 && absl::Now() < limit) absl::SleepFor(kLook);
    // Not after this line, so that stacks do not mix.
    pid_t expected = thread;
    if (wanted_thread.compare_exchange_strong(expected, 0)) Write(fd, "  does not answer\n");
  }
  return absl::OkStatus();
}

}  // namespace longhaul
