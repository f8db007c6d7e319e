#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <variant>

#include "absl/status/status.h"
#include "common/types.h"
#include "worker/step_plan.h"

namespace longhaul::worker::leader {

// A rank dialled; nothing is known of it yet.
struct RankConnected {};
// What a rank says of itself first.
struct RankRegistration {
  std::string secret;  // never logged
  uint32_t protocol_version = 0;
  uint32_t rank = 0;
  std::optional<Digest> model_digest;  // absent if it was not 16 bytes
  int64_t kv_capacity_blocks = 0;
  int64_t kv_limit_blocks = 0;  // what it could hold, if the group had as much before
  int64_t host_slots = 0;       // KV blocks that it can keep off the device
  int64_t disk_slots = 0;
  int64_t pid = 0;
  std::string host;
  std::string hardware;  // printable, short
};
// Weights are loaded, KV is allocated.
struct RankStarted {
  double load_seconds = 0;
  int64_t weight_bytes = 0;
  int64_t kv_bytes = 0;
};
struct RankHeartbeat {
  StepId step_id = 0;  // being executed, 0 when idle
  double step_seconds = 0;
};
// For the communicators of all ranks of the group (comm::RendezvousStore).
struct RendezvousEntry {
  std::string key;
  std::string value;
};
// The rank is about to exit.
struct RankFailure {
  std::string message;
};
// The stream is over, for whatever reason. Last event of a link, exactly once.
struct RankClosed {};
using RankEvent = std::variant<RankConnected, RankRegistration, RankStarted, RankHeartbeat,
                               StepResult, RendezvousEntry, RankFailure, RankClosed>;

// A rank's place in its group (rank.proto, Start).
struct RankPlace {
  uint64_t incarnation = 0;
  int32_t tensor_parallel_size = 1;
  int32_t pipeline_parallel_size = 1;
  int32_t layer_begin = 0;
  int32_t layer_end = 0;
  int32_t kv_blocks = 0;
  int32_t host_slots = 0;
  int32_t disk_slots = 0;
};

// The leader's end of one rank's control stream. Thread-safe; calls return at once and do nothing
// after Close or once the peer is gone. What waits to be sent is bounded by the plans in flight.
class RankLink {
 public:
  virtual ~RankLink() = default;
  virtual void SendStart(const RankPlace& place) = 0;
  virtual void SendPlan(const StepPlan& plan) = 0;
  virtual void SendRendezvous(const RendezvousEntry& entry) = 0;
  virtual void SendDumpStacks() = 0;
  virtual void SendAbort(const std::string& reason) = 0;
  // Ends the stream with `status` after what was sent before.
  virtual void Close(const absl::Status& status) = 0;
};

// Hears what ranks say, from threads of the control server; the events of one link come in order.
using RankEventHandler =
    std::function<void(const std::shared_ptr<RankLink>& link, RankEvent event)>;

}  // namespace longhaul::worker::leader
