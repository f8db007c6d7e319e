#pragma once

#include <grpcpp/channel.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "router/cluster_view.h"

namespace longhaul::router {

// What a Watch brings: who the group is, once and first; loads and changes of the cached prefixes;
// the end, once and last.
struct WatchHello {
  uint32_t protocol_version = 0;
  uint64_t incarnation = 0;
  GroupLimits limits;
};
struct PrefixDelta {
  uint64_t sequence = 0;  // of this Watch, from 1 without gaps
  bool reset = false;     // what was told before is void
  std::vector<Digest> added;
  std::vector<Digest> removed;
};
struct WatchEnded {
  absl::Status status;
};
using WatchUpdate = std::variant<WatchHello, GroupLoad, PrefixDelta, WatchEnded>;

// One Watch call on one leader. Knows nothing of reconnecting (cluster_watch.h).
// Thread-compatible: its owner is the thread of ClusterWatch.
class WorkerWatch {
 public:
  // Called from gRPC's threads; returns at once.
  using OnUpdate = std::function<void(WatchUpdate)>;

  static std::unique_ptr<WorkerWatch> Start(std::shared_ptr<grpc::Channel> channel,
                                            OnUpdate on_update);

  // Allowed once WatchEnded was given, not before.
  virtual ~WorkerWatch() = default;

  // Asks for the next update: to be called once for each but WatchEnded, also after Cancel.
  virtual void Resume() = 0;

  // WatchEnded still follows. Idempotent.
  virtual void Cancel() = 0;
};

}  // namespace longhaul::router
