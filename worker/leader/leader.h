#pragma once

#include <cstdint>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/clock.h"
#include "common/queue.h"
#include "common/types.h"
#include "worker/group_shape.h"
#include "worker/leader/control_server.h"
#include "worker/leader/cost_keeper.h"
#include "worker/leader/cost_store.h"
#include "worker/leader/engine.h"
#include "worker/leader/group.h"
#include "worker/leader/leader_config.h"
#include "worker/leader/leader_metrics.h"
#include "worker/leader/load_board.h"
#include "worker/leader/prefix_rule.h"
#include "worker/leader/rank_launcher.h"
#include "worker/leader/request_table.h"
#include "worker/leader/worker_service.h"

namespace longhaul::worker::leader {

// What a leader must know of the model; it never sees a weight.
struct LeaderModel {
  int32_t num_layers = 0;
  GroupShape shape = GroupShape(/*num_layers=*/1);
  int32_t vocab_size = 0;
  int32_t max_position_embeddings = 0;
  std::vector<TokenId> end_tokens;
  Digest digest;
  PrefixRule prefix;        // which requests may share KV
  CostStore::Key cost_key;  // whose costs are the same on the same hardware

  // Reads `config.model`, and cuts it as `config` says. Errors: those of ModelConfig::Load,
  // GenerationDefaults::Load, ModelDigest, GroupShape::Make.
  static absl::StatusOr<LeaderModel> Load(const LeaderConfig& config);
};

// A whole leader: engine, group, control server, worker service. The composition root; constructs
// in order, stops in order. Thread-compatible.
class Leader {
 public:
  // `tuning`: time limits of the group; its sizes, digest and secret are filled in. `launcher` and
  // `clock` are borrowed.
  Leader(const LeaderConfig& config, const LeaderModel& model, const std::string& secret,
         GroupOptions tuning, RankLauncher& launcher, const Clock& clock);
  ~Leader();  // Stop

  // Blocks until the ranks are up and routers can connect. Call once. Errors: kInvalidArgument (the
  // numbers do not go together, or not with the model; names what to change), kUnavailable (an
  // address, or why a rank cannot start), kCancelled (`stop`).
  absl::Status Start(const std::stop_token& stop);

  // Requests fail with kUnavailable, streams end, ranks end. Idempotent.
  void Stop();

  // After Start.
  const std::string& address() const { return service_->address(); }
  const std::string& control_address() const { return control_->address(); }

  const LeaderMetrics& metrics() const { return metrics_; }
  const LoadBoard& board() const { return board_; }
  const RequestTable& requests() const { return requests_; }

 private:
  absl::Status CheckConfig() const;
  // What routers are told, once the KV cache's size is known.
  absl::StatusOr<ServedModel> DescribeModel() const;

  const LeaderConfig config_;
  const LeaderModel model_;
  const Clock& clock_;
  LeaderMetrics metrics_;
  LoadBoard board_;
  RequestTable requests_;
  BoundedQueue<absl::Status> first_start_{2};  // the group's answer, or a request to stop
  Group group_;
  std::unique_ptr<CostKeeper> cost_keeper_;  // null: costs are not saved
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<ControlServer> control_;
  std::unique_ptr<WorkerService> service_;
};

}  // namespace longhaul::worker::leader
