#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cli/engine_config.h"
#include "cli/signal_watch.h"
#include "cli/socket_folder.h"
#include "common/subprocess.h"

namespace longhaul::cli {

// A router and local groups: `longhaul-router` and `longhaul-worker leader` of each, children of
// this process from the folder of its program. Nothing of it outlives this process, however that
// ends.
//
// Thread-compatible; Start is called on the main thread, whose end ends the children.
class LocalCluster {
 public:
  struct Options {
    std::string model_dir;
    EngineConfig engine;
    std::string host = "127.0.0.1";
    int port = 0;       // 0 = any free one
    int grpc_port = 0;  // 0 = any free one
    std::vector<std::string> allowed_origins = {};
    // Time that a request may take; absent = the router's default.
    std::optional<double> request_timeout_seconds;
    int stderr_fd = -1;  // where the programs log; -1 = our standard error
  };

  // Starts all and waits until a request would be answered. Errors, with everything stopped again:
  // what is wrong with model directory or name (kInvalidArgument, kNotFound), kCancelled (a signal
  // asks us to stop), kUnavailable (a program ended by itself), kDeadlineExceeded
  // (start-timeout-seconds).
  static absl::StatusOr<std::unique_ptr<LocalCluster>> Start(const Options& options,
                                                             SignalWatch& signals);
  // Stops.
  ~LocalCluster();
  LocalCluster(const LocalCluster&) = delete;
  LocalCluster& operator=(const LocalCluster&) = delete;

  const std::string& model() const { return model_; }  // its name in the APIs
  const std::string& rest() const { return rest_; }    // host:port
  const std::string& grpc() const { return grpc_; }    // host:port

  // kUnavailable if a program has ended by itself: which and how. To be asked after each SIGCHLD.
  absl::Status CheckAlive() const;

  // Ends all in order, within 15 s each: the router first, because it ends what clients wait for
  // while the leaders still answer, then those together. Idempotent.
  void Stop();

 private:
  struct Child {
    std::string name;
    std::unique_ptr<Subprocess> process;
  };

  explicit LocalCluster(std::unique_ptr<SocketFolder> sockets);
  absl::Status StartPrograms(const Options& options);
  absl::Status AwaitReady(absl::Time deadline, SignalWatch& signals);
  absl::StatusOr<std::string> ReadyLine(const Child& child, absl::Time deadline,
                                        SignalWatch& signals);
  absl::Status Watch(absl::Duration pause, SignalWatch& signals) const;

  const std::unique_ptr<SocketFolder> sockets_;
  std::string model_;
  std::string rest_;
  std::string grpc_;
  std::vector<Child> children_;  // leaders, router
};

// The name that the model in `model_dir` is served under: `given`, or the directory's. Errors:
// kInvalidArgument if it is no printable UTF-8 text of at most 256 bytes.
absl::StatusOr<std::string> ServedName(const std::string& model_dir, const std::string& given);

}  // namespace longhaul::cli
