#pragma once

#include <memory>
#include <unordered_map>

#include "common/mutex.h"
#include "common/types.h"
#include "worker/leader/event_log.h"

namespace longhaul::worker::leader {

// The event logs of the requests that live, or are kept for a reader to come back. The engine
// thread adds and removes; streams look up. Thread-safe.
class RequestTable {
 public:
  // False if the id is taken.
  bool Add(const RequestId& id, std::shared_ptr<EventLog> log) EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    return logs_.emplace(id, std::move(log)).second;
  }
  void Remove(const RequestId& id) EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    logs_.erase(id);
  }
  // Null if unknown.
  std::shared_ptr<EventLog> Find(const RequestId& id) const EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    const auto it = logs_.find(id);
    return it == logs_.end() ? nullptr : it->second;
  }
  size_t size() const EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    return logs_.size();
  }

 private:
  mutable Mutex mutex_;
  std::unordered_map<RequestId, std::shared_ptr<EventLog>> logs_ GUARDED_BY(mutex_);
};

}  // namespace longhaul::worker::leader
