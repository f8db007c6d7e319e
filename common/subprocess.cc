#include "common/subprocess.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/logging.h"

namespace longhaul {
namespace {

constexpr size_t kMaxLineBytes = size_t{64} << 10;

// Waits until `fd` is readable. False at the deadline.
bool WaitReadable(int fd, absl::Time deadline) {
  while (true) {
    int timeout_ms = -1;
    if (deadline != absl::InfiniteFuture()) {
      const int64_t left = absl::ToInt64Milliseconds(deadline - absl::Now()) + 1;
      timeout_ms = static_cast<int>(std::clamp<int64_t>(left, 0, INT_MAX));
    }
    pollfd entry{.fd = fd, .events = POLLIN, .revents = 0};
    const int ready = poll(&entry, 1, timeout_ms);
    if (ready > 0) return true;
    if (ready == 0 && absl::Now() >= deadline) return false;
    CHECK(ready >= 0 || errno == EINTR) << "poll: " << strerror(errno);
  }
}

// Runs between fork and exec: async-signal-safe calls only. Reports errno through `report_fd`.
[[noreturn]] void ExecChild(const std::vector<char*>& argv, const std::vector<char*>& env,
                            pid_t parent, int stdout_fd, int stderr_fd, int report_fd) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  setpgid(0, 0);  // a terminal's Ctrl-C goes to us, who stop children in order
  if (getppid() != parent) _exit(127);  // the parent died before the line above
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  for (const int number : {SIGTERM, SIGINT, SIGHUP, SIGPIPE}) signal(number, SIG_DFL);
  if (stdout_fd >= 0) dup2(stdout_fd, STDOUT_FILENO);
  if (stderr_fd >= 0) dup2(stderr_fd, STDERR_FILENO);
  execve(argv[0], argv.data(), env.data());
  const int error = errno;
  [[maybe_unused]] const ssize_t written = write(report_fd, &error, sizeof(error));
  _exit(127);
}

std::vector<char*> Pointers(std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (std::string& text : strings) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

absl::Status StartError(const std::string& program, int error) {
  const std::string message = absl::StrCat("cannot start ", program, ": ", strerror(error));
  if (error == ENOENT) return absl::NotFoundError(message);
  if (error == EACCES) return absl::PermissionDeniedError(message);
  return absl::InternalError(message);
}

}  // namespace

std::string Subprocess::Exit::ToString() const {
  if (signal != 0) return absl::StrCat("signal ", signal, " (", strsignal(signal), ")");
  return absl::StrCat("exit code ", code);
}

absl::StatusOr<std::unique_ptr<Subprocess>> Subprocess::Start(const Options& options) {
  CHECK(!options.argv.empty());
  std::vector<std::string> argv_text = options.argv;
  std::vector<std::string> env_text;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    const bool replaced = std::any_of(
        options.extra_env.begin(), options.extra_env.end(),
        [text](const auto& extra) { return text.substr(0, text.find('=')) == extra.first; });
    if (!replaced) env_text.emplace_back(text);
  }
  for (const auto& [name, value] : options.extra_env) env_text.push_back(name + "=" + value);
  const std::vector<char*> argv = Pointers(argv_text);
  const std::vector<char*> env = Pointers(env_text);

  std::array<int, 2> report{};
  std::array<int, 2> output{-1, -1};
  if (pipe2(report.data(), O_CLOEXEC) != 0) return StartError(options.argv[0], errno);
  if (options.capture_stdout && pipe2(output.data(), O_CLOEXEC) != 0) {
    const int error = errno;
    close(report[0]);
    close(report[1]);
    return StartError(options.argv[0], error);
  }
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid == 0) ExecChild(argv, env, parent, output[1], options.stderr_fd, report[1]);
  const int fork_error = errno;
  close(report[1]);
  if (output[1] >= 0) close(output[1]);

  // The report pipe closes at exec; before that it carries the errno of a failed exec.
  int error = pid < 0 ? fork_error : 0;
  if (pid > 0) {
    ssize_t size = 0;
    do {
      size = read(report[0], &error, sizeof(error));
    } while (size < 0 && errno == EINTR);
    if (size != sizeof(error)) error = 0;
  }
  close(report[0]);
  int pidfd = -1;
  if (error == 0) {
    pidfd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
    if (pidfd < 0) {
      error = errno;
      kill(pid, SIGKILL);
    }
  }
  if (error != 0) {
    if (pid > 0) waitpid(pid, nullptr, 0);
    if (output[0] >= 0) close(output[0]);
    return StartError(options.argv[0], error);
  }
  return std::unique_ptr<Subprocess>(new Subprocess(pid, pidfd, output[0]));
}

Subprocess::~Subprocess() {
  if (!Poll().has_value()) {
    Signal(SIGKILL);
    Wait(absl::InfiniteFuture());
  }
  close(pidfd_);
  if (stdout_fd_ >= 0) close(stdout_fd_);
}

std::optional<Subprocess::Exit> Subprocess::Poll() { return Wait(absl::InfinitePast()); }

std::optional<Subprocess::Exit> Subprocess::Wait(absl::Time deadline) {
  if (exit_.has_value()) return exit_;
  if (!WaitReadable(pidfd_, deadline)) return std::nullopt;
  int status = 0;
  const pid_t reaped = waitpid(pid_, &status, 0);
  CHECK(reaped == pid_) << "waitpid(" << pid_ << "): " << strerror(errno);
  exit_ = WIFSIGNALED(status) ? Exit{.code = 0, .signal = WTERMSIG(status)}
                              : Exit{.code = WEXITSTATUS(status), .signal = 0};
  return exit_;
}

void Subprocess::Signal(int signal) {
  // The process is reaped only by us, so until then its id cannot be another's.
  if (!exit_.has_value()) kill(pid_, signal);
}

Subprocess::Exit Subprocess::Stop(absl::Duration grace) {
  Signal(SIGTERM);
  if (const auto ended = Wait(absl::Now() + grace)) return *ended;
  Signal(SIGKILL);
  return *Wait(absl::InfiniteFuture());
}

absl::StatusOr<std::string> Subprocess::ReadLine(absl::Time deadline) {
  CHECK(stdout_fd_ >= 0) << "ReadLine without capture_stdout";
  while (true) {
    if (const size_t end = buffer_.find('\n'); end != std::string::npos) {
      std::string line = buffer_.substr(0, end);
      buffer_.erase(0, end + 1);
      return line;
    }
    if (buffer_.size() > kMaxLineBytes) {
      return absl::ResourceExhaustedError(
          absl::StrCat("a line of the output is over ", kMaxLineBytes, " bytes"));
    }
    if (!WaitReadable(stdout_fd_, deadline)) {
      return absl::DeadlineExceededError("no line of output before the deadline");
    }
    std::array<char, 4096> chunk;
    const ssize_t size = read(stdout_fd_, chunk.data(), chunk.size());
    if (size < 0 && errno == EINTR) continue;
    if (size <= 0) return absl::OutOfRangeError("the program closed its output");
    buffer_.append(chunk.data(), static_cast<size_t>(size));
  }
}

absl::StatusOr<std::string> ProgramFolder() {
  std::array<char, PATH_MAX> path;
  const ssize_t size = readlink("/proc/self/exe", path.data(), path.size());
  if (size <= 0 || size == static_cast<ssize_t>(path.size())) {
    return absl::InternalError(absl::StrCat("cannot read /proc/self/exe: ", strerror(errno)));
  }
  const std::string program(path.data(), static_cast<size_t>(size));
  return program.substr(0, program.rfind('/'));
}

}  // namespace longhaul
