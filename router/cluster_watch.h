#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "absl/time/time.h"
#include "common/clock.h"
#include "common/mutex.h"
#include "common/queue.h"
#include "router/cluster_view.h"
#include "router/router_metrics.h"
#include "router/worker_channels.h"
#include "router/worker_watch.h"

namespace longhaul::router {

struct ClusterWatchOptions {
  std::vector<std::string> addresses;  // of leaders; not empty
  std::string model;                   // served name; a group with another is left out and logged
  // A leader reports at least once a second; one that is silent for so long is out of the view.
  absl::Duration stale_after = absl::Milliseconds(4500);
  absl::Duration min_backoff = absl::Milliseconds(100);
  absl::Duration max_backoff = absl::Seconds(2);
  uint64_t jitter_seed = 0;
};

// Keeps a Watch on every configured leader and publishes what they say.
//
// A group is in the view from its Hello until its Watch ends; then the next attempt follows after a
// back-off that doubles. A leader that is silent is named as such in the view; time in which this
// process did not run itself is no leader's silence. One thread owns the calls and the state; it
// sleeps until something comes.
class ClusterWatch {
 public:
  // `channels`, `clock` and `metrics` are borrowed and outlive this.
  ClusterWatch(ClusterWatchOptions options, const WorkerChannels& channels, const Clock& clock,
               RouterMetrics& metrics);
  ~ClusterWatch();  // Stop()
  ClusterWatch(const ClusterWatch&) = delete;
  ClusterWatch& operator=(const ClusterWatch&) = delete;

  // `on_change` runs on the watching thread after each new view, and returns at once. Call once.
  void Start(std::function<void()> on_change);

  // Ends the calls and the thread; the view stays as it was. Idempotent.
  void Stop();

  // Never null. Thread-safe.
  std::shared_ptr<const ClusterView> view() const EXCLUDES(mutex_);

  // Groups of the view that take requests for the served model. Thread-safe.
  int32_t num_healthy() const;

 private:
  struct StopRequested {};
  struct Message {
    size_t worker = 0;
    std::variant<StopRequested, WatchUpdate> what;
  };
  // One configured leader. Watching thread only.
  struct Worker {
    std::string address;
    std::unique_ptr<WorkerWatch> call;  // null between attempts
    std::optional<Group> group;         // since Hello
    uint64_t prefix_sequence = 0;       // of the last delta since Hello
    absl::Time next_attempt = absl::InfinitePast();
    absl::Time last_update = absl::InfinitePast();
    absl::Duration backoff = absl::ZeroDuration();
    bool silent = false;  // since the last Hello
    bool loss_logged = false;
  };

  void Run();
  void Handle(size_t index, WatchUpdate update);
  void OnHello(Worker& worker, const WatchHello& hello);
  void OnLoad(Worker& worker, const GroupLoad& load);
  void OnDelta(Worker& worker, const PrefixDelta& delta);
  void OnEnded(Worker& worker, const absl::Status& status);
  // Starts attempts that are due, cancels silent calls; returns when to look again.
  absl::Time Tend(absl::Time now);
  // What was not heard while this process was held up may be on its way.
  void ForgiveLostTime(absl::Time now);
  void Publish() EXCLUDES(mutex_);

  const ClusterWatchOptions options_;
  const WorkerChannels& channels_;
  const Clock& clock_;
  RouterMetrics& metrics_;
  std::function<void()> on_change_;  // constant after Start
  // At most one update of each call is on its way (WorkerWatch::Resume), besides one stop.
  BoundedQueue<Message> mailbox_;
  std::thread thread_;
  // Watching thread only.
  std::vector<Worker> workers_;
  absl::Time last_look_ = absl::InfiniteFuture();
  std::mt19937_64 jitter_;
  bool stopping_ = false;

  mutable Mutex mutex_;
  std::shared_ptr<const ClusterView> view_ GUARDED_BY(mutex_);
};

}  // namespace longhaul::router
