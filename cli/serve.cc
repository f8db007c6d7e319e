#include "cli/serve.h"

#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "cli/http_probe.h"
#include "common/logging.h"
#include "common/model_config.h"
#include "common/status_macros.h"
#include "common/subprocess.h"

namespace longhaul::cli {
namespace {

// A router lets running requests end within its own bound before it exits.
constexpr absl::Duration kStopGrace = absl::Seconds(15);
constexpr absl::Duration kReadyPoll = absl::Milliseconds(50);

// SIGTERM, SIGINT, SIGHUP and SIGCHLD as a file descriptor; blocked for the process from
// construction on.
class SignalWatch {
 public:
  SignalWatch() {
    sigset_t set;
    sigemptyset(&set);
    for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGCHLD}) sigaddset(&set, signal);
    CHECK(pthread_sigmask(SIG_BLOCK, &set, nullptr) == 0);
    fd_ = signalfd(-1, &set, SFD_CLOEXEC);
    CHECK(fd_ >= 0) << strerror(errno);
  }
  ~SignalWatch() { close(fd_); }
  SignalWatch(const SignalWatch&) = delete;
  SignalWatch& operator=(const SignalWatch&) = delete;

  // The next signal, or nullopt after `timeout`.
  std::optional<int> Next(absl::Duration timeout) {
    const int timeout_ms = timeout == absl::InfiniteDuration()
                               ? -1
                               : static_cast<int>(absl::ToInt64Milliseconds(timeout));
    pollfd entry{.fd = fd_, .events = POLLIN, .revents = 0};
    if (poll(&entry, 1, timeout_ms) <= 0) return std::nullopt;
    signalfd_siginfo info{};
    if (read(fd_, &info, sizeof(info)) != sizeof(info)) return std::nullopt;
    return static_cast<int>(info.ssi_signo);
  }

 private:
  int fd_ = -1;
};

// A folder for the group's sockets that only this user can enter; removed at the end.
class SocketFolder {
 public:
  static absl::StatusOr<std::unique_ptr<SocketFolder>> Make() {
    std::error_code error;
    std::string pattern =
        (std::filesystem::temp_directory_path(error) / "longhaul-XXXXXX").string();
    if (error || mkdtemp(pattern.data()) == nullptr) {
      return absl::UnavailableError(
          absl::StrCat("cannot make a folder for sockets like ", pattern, ": ", strerror(errno)));
    }
    return std::unique_ptr<SocketFolder>(new SocketFolder(pattern));
  }
  ~SocketFolder() {
    std::error_code ignored;  // leaves at worst an empty folder behind
    std::filesystem::remove_all(path_, ignored);
  }
  SocketFolder(const SocketFolder&) = delete;
  SocketFolder& operator=(const SocketFolder&) = delete;

  std::string Socket(const std::string& name) const { return "unix:" + path_ + "/" + name; }

 private:
  explicit SocketFolder(std::string path) : path_(std::move(path)) {}
  const std::string path_;
};

struct Child {
  const char* name;
  std::unique_ptr<Subprocess> process;
};

// The value of `key` in a ready line "ready role=router rest=127.0.0.1:8000 ...".
absl::StatusOr<std::string> ReadyValue(const std::string& line, const std::string& key) {
  for (const auto word : absl::StrSplit(line, ' ')) {
    const std::string text(word);
    if (text.rfind(key + "=", 0) == 0) return text.substr(key.size() + 1);
  }
  return absl::InternalError(absl::StrCat("no ", key, " in \"", line, "\""));
}

// The first child that has ended by itself, as an error.
absl::Status CheckAlive(const std::vector<Child>& children) {
  for (const Child& child : children) {
    if (const auto exit = child.process->Poll()) {
      return absl::UnavailableError(
          absl::StrCat(child.name, " ended with ", exit->ToString(), "; the lines above say why"));
    }
  }
  return absl::OkStatus();
}

// Looks after the children for `pause`; an error if one ended or a signal asks us to stop.
absl::Status Watch(const std::vector<Child>& children, absl::Duration pause, SignalWatch& signals) {
  RETURN_IF_ERROR(CheckAlive(children));
  const std::optional<int> signal = signals.Next(pause);
  if (signal.has_value() && signal != SIGCHLD) return absl::CancelledError("stopped by a signal");
  return absl::OkStatus();
}

// Waits for the ready line of one of the children.
absl::StatusOr<std::string> AwaitReady(const std::vector<Child>& children, const Child& child,
                                       absl::Time deadline, SignalWatch& signals) {
  while (absl::Now() < deadline) {
    absl::StatusOr<std::string> line = child.process->ReadLine(absl::Now() + kReadyPoll);
    if (line.ok() && line->rfind("ready ", 0) == 0) return line;
    // The output of a program that is about to end closes first.
    const bool closed = absl::IsOutOfRange(line.status());
    RETURN_IF_ERROR(Watch(children, closed ? kReadyPoll : absl::ZeroDuration(), signals));
  }
  return absl::DeadlineExceededError(absl::StrCat(
      child.name, " was not ready in time; raise --start-timeout-seconds if it needs longer"));
}

// The flags of `config` that a leader knows, given only where they differ from its own default.
std::vector<std::string> LeaderFlags(const ServeConfig& config) {
  std::vector<std::string> flags = {"--device",
                                    config.device,
                                    "--kv-cache-dtype",
                                    config.kv_cache_dtype,
                                    "--threads",
                                    absl::StrCat(config.threads),
                                    "--attention-temperature",
                                    config.attention_temperature,
                                    "--dual-chunk-attention",
                                    config.dual_chunk_attention};
  auto add = [&flags](const char* name, auto value) {
    if (value == 0) return;
    flags.emplace_back(name);
    flags.push_back(absl::StrCat(value));
  };
  add("--max-model-len", config.max_model_len);
  add("--max-num-batched-tokens", config.max_num_batched_tokens);
  add("--max-num-seqs", config.max_num_seqs);
  add("--kv-cache-gib", config.kv_cache_gib);
  return flags;
}

// `model_dir` without trailing slashes, its last component as a name.
std::string NameOf(const std::string& model_dir) {
  std::error_code error;
  const auto path = std::filesystem::canonical(model_dir, error);
  return error ? model_dir : path.filename().string();
}

absl::StatusOr<Child> StartChild(const char* name, std::vector<std::string> argv) {
  ASSIGN_OR_RETURN(auto process,
                   Subprocess::Start({.argv = std::move(argv), .capture_stdout = true}));
  LOG(INFO) << "event=started program=" << name << " pid=" << process->pid();
  return Child{.name = name, .process = std::move(process)};
}

// Waits until the router says that a group is ready to answer.
absl::Status AwaitGroup(const std::string& rest, const std::vector<Child>& children,
                        absl::Time deadline, SignalWatch& signals) {
  while (absl::Now() < deadline) {
    if (HttpStatusOf(rest, "/ready", absl::Seconds(2)) == 200) return absl::OkStatus();
    RETURN_IF_ERROR(Watch(children, kReadyPoll, signals));
  }
  return absl::DeadlineExceededError("the router saw no ready group in time");
}

absl::Status Run(const std::string& model_dir, const ServeConfig& config,
                 const SocketFolder& sockets, std::vector<Child>& children, SignalWatch& signals) {
  ASSIGN_OR_RETURN(const std::string folder, ProgramFolder());
  const std::string name =
      config.served_model_name.empty() ? NameOf(model_dir) : config.served_model_name;
  const absl::Time deadline = absl::Now() + absl::Seconds(config.start_timeout_seconds);
  const std::string worker = sockets.Socket("group-0");

  std::vector<std::string> leader = {folder + "/longhaul-worker",
                                     "leader",
                                     "--model",
                                     model_dir,
                                     "--served-model-name",
                                     name,
                                     "--listen",
                                     worker,
                                     "--control-listen",
                                     sockets.Socket("control-0"),
                                     "--rank-program",
                                     folder + "/longhaul-worker"};
  for (std::string& flag : LeaderFlags(config)) leader.push_back(std::move(flag));
  ASSIGN_OR_RETURN(Child leader_child, StartChild("longhaul-worker leader", std::move(leader)));
  children.push_back(std::move(leader_child));
  ASSIGN_OR_RETURN(
      Child router_child,
      StartChild("longhaul-router",
                 {folder + "/longhaul-router", "--model", model_dir, "--served-model-name", name,
                  "--host", config.host, "--port", absl::StrCat(config.port), "--grpc-port",
                  absl::StrCat(config.grpc_port), "--worker", worker}));
  children.push_back(std::move(router_child));

  ASSIGN_OR_RETURN(const std::string router_line,
                   AwaitReady(children, children[1], deadline, signals));
  ASSIGN_OR_RETURN(const std::string leader_line,
                   AwaitReady(children, children[0], deadline, signals));
  ASSIGN_OR_RETURN(const std::string rest, ReadyValue(router_line, "rest"));
  ASSIGN_OR_RETURN(const std::string grpc, ReadyValue(router_line, "grpc"));
  RETURN_IF_ERROR(AwaitGroup(rest, children, deadline, signals));
  std::cout << "ready model=" << name << " rest=http://" << rest << "/v1 grpc=" << grpc
            << std::endl;
  while (true) {
    RETURN_IF_ERROR(Watch(children, absl::InfiniteDuration(), signals));
  }
}

}  // namespace

absl::Status Serve(const std::string& model_dir, const ServeConfig& config) {
  // Found wrong here, a path is one line instead of two programs' complaints.
  RETURN_IF_ERROR(ModelConfig::Load(model_dir));
  SignalWatch signals;
  ASSIGN_OR_RETURN(const auto sockets, SocketFolder::Make());
  std::vector<Child> children;
  absl::Status result = Run(model_dir, config, *sockets, children, signals);
  // The router first: it ends what clients wait for while the leader still answers.
  while (!children.empty()) {
    if (!children.back().process->Poll().has_value()) {
      const Subprocess::Exit exit = children.back().process->Stop(kStopGrace);
      LOG(INFO) << "event=stopped program=" << children.back().name << " how=\"" << exit.ToString()
                << "\"";
    }
    children.pop_back();
  }
  return absl::IsCancelled(result) ? absl::OkStatus() : result;
}

}  // namespace longhaul::cli
