#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/subprocess.h"

namespace longhaul::worker::leader {

// A rank's process, or what stands for it in a test. Owned by the group thread.
class RankProcess {
 public:
  virtual ~RankProcess() = default;      // kills it if it still runs
  virtual std::string Name() const = 0;  // "pid 123"
  // The line it prints when it is up ("ready role=rank ...", with its metrics address); empty if it
  // has not come until `deadline`.
  virtual std::string ReadyLine(absl::Time deadline) = 0;
  // How it ended ("exit code 3", "signal 9 (Killed)"), waiting until `deadline`; nullopt if it
  // runs.
  virtual std::optional<std::string> Wait(absl::Time deadline) = 0;
  // Ends it: politely, then after `grace` for good. Returns how it ended.
  virtual std::string Stop(absl::Duration grace) = 0;
};

// Starts the ranks of this host.
class RankLauncher {
 public:
  virtual ~RankLauncher() = default;
  // `control_address`: what the rank dials. Errors as those of Subprocess::Start.
  virtual absl::StatusOr<std::unique_ptr<RankProcess>> Launch(
      int32_t rank, const std::string& control_address) = 0;
};

// `longhaul-worker rank` as a subprocess. Thread-compatible.
class SubprocessRankLauncher final : public RankLauncher {
 public:
  // The program and the flags of a rank; --rank and --control are added.
  using Command = std::function<std::vector<std::string>(int32_t rank)>;

  // `extra_env`: the group's secret.
  SubprocessRankLauncher(Command command,
                         std::vector<std::pair<std::string, std::string>> extra_env);
  absl::StatusOr<std::unique_ptr<RankProcess>> Launch(int32_t rank,
                                                      const std::string& control_address) override;

 private:
  const Command command_;
  const std::vector<std::pair<std::string, std::string>> extra_env_;
};

}  // namespace longhaul::worker::leader
