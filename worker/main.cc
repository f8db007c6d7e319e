// longhaul-worker: the leader of a group, or one of its ranks. See docs/architecture.md.
#include <signal.h>

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <stop_token>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "common/flags.h"
#include "common/logging.h"
#include "common/stack_dump.h"
#include "common/types.h"
#include "worker/leader/leader_config.h"
#include "worker/leader/server.h"
#include "worker/rank/rank_config.h"
#include "worker/rank/server.h"

namespace longhaul::worker {
namespace {

// Turns SIGTERM and SIGINT into a request to stop, from a thread of its own. To be made before any
// other thread: it blocks the signals, and later threads inherit that.
class StopOnSignal {
 public:
  StopOnSignal() {
    sigemptyset(&signals_);
    sigaddset(&signals_, SIGTERM);
    sigaddset(&signals_, SIGINT);
    sigaddset(&signals_, SIGUSR1);  // the destructor's own
    pthread_sigmask(SIG_BLOCK, &signals_, nullptr);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);  // a file that may not grow is an error of the write
    thread_ = std::thread([this] {
      int number = 0;
      sigwait(&signals_, &number);
      if (number != SIGUSR1) LOG(INFO) << "event=signal number=" << number;
      source_.request_stop();
    });
  }
  ~StopOnSignal() {
    pthread_kill(thread_.native_handle(), SIGUSR1);
    thread_.join();
  }
  StopOnSignal(const StopOnSignal&) = delete;
  StopOnSignal& operator=(const StopOnSignal&) = delete;
  std::stop_token token() const { return source_.get_token(); }

 private:
  sigset_t signals_;
  std::stop_source source_;
  std::thread thread_;
};

// The group's secret; a leader that was given none makes one for its ranks.
std::string GroupSecret() {
  const char* secret = std::getenv("LONGHAUL_GROUP_SECRET");
  if (secret != nullptr && *secret != '\0') return secret;
  return RequestId::Random().ToString();
}

int Main(int argc, char** argv) {
  CLI::App app("A worker group of Longhaul: its leader, or one of its ranks");
  app.require_subcommand(1);
  leader::LeaderConfig leader_config;
  ConfigFlags leader_flags;
  CLI::App& leader_command =
      *app.add_subcommand("leader", "Schedules a group; starts and watches its ranks");
  leader_flags.AddTo(leader_command, FieldsOf(leader_config));
  rank::RankConfig rank_config;
  ConfigFlags rank_flags;
  CLI::App& rank_command = *app.add_subcommand("rank", "Executes the leader's plans on one device");
  rank_flags.AddTo(rank_command, FieldsOf(rank_config));
  if (const auto exit_code = ParseCommandLine(app, argc, argv)) return *exit_code;

  const bool is_leader = leader_command.parsed();
  SetLogProgram(is_leader ? "leader" : "rank");
  absl::Status status = (is_leader ? leader_flags : rank_flags).Resolve();
  if (status.ok() && (is_leader ? leader_config.model : rank_config.model).empty()) {
    status = absl::InvalidArgumentError("--model is needed: the directory of the model");
  }
  if (!status.ok()) {
    std::cerr << "longhaul-worker: " << status.message() << "\n";
    return 2;
  }
  PrepareStackDump();
  const StopOnSignal signals;
  if (is_leader) {
    // The running program itself, whatever its name or working directory.
    const std::string self = std::filesystem::read_symlink("/proc/self/exe").string();
    status = leader::RunLeader(leader_config, self, GroupSecret(), signals.token());
  } else {
    status = rank::RunRank(rank_config, GroupSecret(), signals.token());
  }
  if (!status.ok()) {
    LOG(ERROR) << "event=failed status=\"" << status << "\"";
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace longhaul::worker

int main(int argc, char** argv) { return longhaul::worker::Main(argc, argv); }
