#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "common/cost_model.h"
#include "common/mutex.h"
#include "worker/leader/prefix_board.h"

namespace longhaul::worker::leader {

// What the engine tells routers about itself. Value.
struct Load {
  uint64_t incarnation = 0;  // of the ranks that are up; 0 = none
  int32_t running_requests = 0;
  int32_t waiting_requests = 0;
  int64_t queued_prefill_tokens = 0;  // of running and waiting requests, not yet processed
  double queued_seconds = 0;          // predicted time of that work
  int32_t kv_blocks = 0;
  int32_t free_kv_blocks = 0;
  bool draining = false;
  CostCoefficients cost;

  bool ready() const { return incarnation != 0; }
};

// The newest Load, the cached prefixes, and who wants to hear of them. Thread-safe.
class LoadBoard {
 public:
  // Called without a lock, from the publishing thread: returns at once.
  class Watcher {
   public:
    virtual ~Watcher() = default;
    virtual void OnLoad() = 0;
  };

  // What is new among the prefixes is to be published before: it is told with the next load.
  PrefixBoard& prefixes() { return prefixes_; }

  void Publish(const Load& load) EXCLUDES(mutex_) {
    std::vector<std::shared_ptr<Watcher>> watchers;
    {
      MutexLock lock(mutex_);
      load_ = load;
      watchers = watchers_;
    }
    for (const std::shared_ptr<Watcher>& watcher : watchers) watcher->OnLoad();
  }
  Load Get() const EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    return load_;
  }
  void AddWatcher(std::shared_ptr<Watcher> watcher) EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    watchers_.push_back(std::move(watcher));
  }
  void RemoveWatcher(const Watcher* watcher) EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    std::erase_if(watchers_, [watcher](const auto& w) { return w.get() == watcher; });
  }

 private:
  PrefixBoard prefixes_;
  mutable Mutex mutex_;
  Load load_ GUARDED_BY(mutex_);
  std::vector<std::shared_ptr<Watcher>> watchers_ GUARDED_BY(mutex_);
};

}  // namespace longhaul::worker::leader
