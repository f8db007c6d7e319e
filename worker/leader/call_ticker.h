#pragma once

#include <memory>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "common/mutex.h"

namespace longhaul::worker::leader {

// Reminds open calls of the time, once a second each: for timeouts and for periodic events. Sleeps
// while no call is open. Thread-safe.
class CallTicker {
 public:
  class Call {
   public:
    virtual ~Call() = default;
    // From the ticker's thread, without a lock; returns at once. May come once more after Remove.
    virtual void OnTick(absl::Time now) = 0;
  };

  CallTicker();
  ~CallTicker();

  void Add(std::shared_ptr<Call> call) EXCLUDES(mutex_);
  void Remove(const Call* call) EXCLUDES(mutex_);

 private:
  void Run() EXCLUDES(mutex_);

  Mutex mutex_;
  CondVar changed_;
  std::vector<std::shared_ptr<Call>> calls_ GUARDED_BY(mutex_);
  bool stopping_ GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace longhaul::worker::leader
