#pragma once

#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/mutex.h"
#include "worker/comm/rendezvous_store.h"

namespace longhaul::testing {

// For ranks that are threads of the test. Thread-safe.
class MemoryRendezvous final : public worker::comm::RendezvousStore {
 public:
  absl::Status Set(const std::string& key, const std::string& value) override {
    MutexLock lock(mutex_);
    values_[key] = value;
    changed_.SignalAll();
    return absl::OkStatus();
  }

  absl::StatusOr<std::string> Get(const std::string& key, absl::Time deadline) override {
    MutexLock lock(mutex_);
    while (true) {
      if (const auto found = values_.find(key); found != values_.end()) return found->second;
      if (!changed_.WaitUntil(mutex_, deadline) && absl::Now() >= deadline) {
        return absl::DeadlineExceededError(absl::StrCat("nobody published `", key, "`"));
      }
    }
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  std::map<std::string, std::string> values_ GUARDED_BY(mutex_);
};

}  // namespace longhaul::testing
