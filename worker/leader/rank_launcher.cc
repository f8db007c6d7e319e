#include "worker/leader/rank_launcher.h"

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace longhaul::worker::leader {
namespace {

class RankSubprocess final : public RankProcess {
 public:
  explicit RankSubprocess(std::unique_ptr<Subprocess> process) : process_(std::move(process)) {}

  std::string Name() const override { return absl::StrCat("pid ", process_->pid()); }
  std::string ReadyLine(absl::Time deadline) override {
    return process_->ReadLine(deadline).value_or("");
  }
  std::optional<std::string> Wait(absl::Time deadline) override {
    const std::optional<Subprocess::Exit> exit = process_->Wait(deadline);
    if (!exit) return std::nullopt;
    return exit->ToString();
  }
  std::string Stop(absl::Duration grace) override { return process_->Stop(grace).ToString(); }

 private:
  const std::unique_ptr<Subprocess> process_;
};

}  // namespace

SubprocessRankLauncher::SubprocessRankLauncher(
    Command command, std::vector<std::pair<std::string, std::string>> extra_env)
    : command_(std::move(command)), extra_env_(std::move(extra_env)) {}

absl::StatusOr<std::unique_ptr<RankProcess>> SubprocessRankLauncher::Launch(
    int32_t rank, const std::string& control_address) {
  std::vector<std::string> argv = command_(rank);
  argv.insert(argv.end(), {"--rank", absl::StrCat(rank), "--control", control_address});
  // Captured, so that the rank's ready line does not mix with the leader's; it is one line, so the
  // pipe is never full.
  ASSIGN_OR_RETURN(std::unique_ptr<Subprocess> process,
                   Subprocess::Start(
                       {.argv = std::move(argv), .extra_env = extra_env_, .capture_stdout = true}));
  return std::make_unique<RankSubprocess>(std::move(process));
}

}  // namespace longhaul::worker::leader
