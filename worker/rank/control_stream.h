#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <stop_token>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/types.h"
#include "worker/rank/step_progress.h"
#include "worker/step_plan.h"

namespace longhaul::worker::rank {

// Who registers with a leader.
struct Registration {
  std::string secret;  // never logged
  uint32_t rank = 0;
  Digest model_digest;
  int64_t kv_capacity_blocks = 0;
  int64_t kv_limit_blocks = 0;  // at least the capacity
  int64_t host_slots = 0;       // KV blocks that can be kept off the device
  int64_t disk_slots = 0;
  std::string hardware;  // a short name
};

// The rank's place in its group, checked for being possible by itself.
struct GroupPlace {
  uint64_t incarnation = 0;
  int32_t tensor_parallel_size = 0;
  int32_t pipeline_parallel_size = 0;
  int32_t layer_begin = 0;
  int32_t layer_end = 0;
  int32_t kv_blocks = 0;
  int32_t host_slots = 0;  // that plans may name
  int32_t disk_slots = 0;
};

struct LoadReport {
  double seconds = 0;
  int64_t weight_bytes = 0;
  int64_t kv_bytes = 0;
};

// A rank's stream to its leader (rank.proto), the only code here that speaks protobuf.
//
// Two threads: the caller of Run reads and calls the handlers; one of the stream's own writes. The
// writer sends a heartbeat every second from `progress`, and what the Send calls queued: at most
// kMaxQueued messages, more is kResourceExhausted. A result of a step is written by its sender if
// it is short and nothing is being written or waits. No lock is held while something is written.
// Send calls and Cancel are thread-safe.
class ControlStream {
 public:
  static constexpr size_t kMaxQueued = 1024;
  static constexpr absl::Duration kHeartbeatPeriod = absl::Seconds(1);

  struct Handlers {
    // Called by Run; an error ends the stream and is told to the leader. Must not block for long.
    std::function<absl::Status(GroupPlace)> on_start;
    std::function<absl::Status(StepPlan)> on_plan;
    // An entry that some rank of the group sent.
    std::function<absl::Status(std::string key, std::string value)> on_rendezvous;
    // The leader wonders what this rank does.
    std::function<void()> on_dump_stacks;
    // The last one: the stream is over, or about to be (an abort, an error). Once, before farewells
    // that may take a second.
    std::function<void()> on_end;
  };

  // Dials `address` (host:port or unix:/path) and registers. `progress` outlives the stream.
  // kUnavailable if nobody answers until `deadline`, kCancelled after a request to stop.
  static absl::StatusOr<std::unique_ptr<ControlStream>> Open(const std::string& address,
                                                             const Registration& registration,
                                                             const StepProgress& progress,
                                                             absl::Time deadline,
                                                             const std::stop_token& stop);
  ~ControlStream();

  // Serves the stream until it ends. Returns why: OK when the leader closed it in order, kAborted
  // with the leader's reason, kCancelled after Cancel, the leader's refusal (kUnauthenticated,
  // kFailedPrecondition), kUnavailable (it is gone), kInvalidArgument (it broke the protocol), a
  // handler's error, or the one given to Fail. Call once.
  absl::Status Run(const Handlers& handlers);

  // An entry for all ranks of the group (comm::RendezvousStore).
  absl::Status SendRendezvous(const std::string& key, const std::string& value);
  absl::Status SendStarted(const LoadReport& report);
  absl::Status SendStepDone(const StepResult& result);
  // Tells the leader that this rank is about to exit and ends the stream, within a second or two.
  void Fail(const absl::Status& why);
  // Ends the stream at once. Idempotent.
  void Cancel();

 private:
  class Impl;
  explicit ControlStream(std::unique_ptr<Impl> impl);
  const std::unique_ptr<Impl> impl_;
};

}  // namespace longhaul::worker::rank
