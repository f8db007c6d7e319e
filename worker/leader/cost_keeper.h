#pragma once

#include <optional>
#include <thread>

#include "absl/time/time.h"
#include "common/mutex.h"
#include "worker/leader/cost_store.h"

namespace longhaul::worker::leader {

// Saves costs on a thread of its own: the first ones at once, then the newest every `period` if
// there are new ones, and the last ones at Stop. What cannot be saved is told in the log and tried
// again with the next ones. Thread-safe.
class CostKeeper {
 public:
  explicit CostKeeper(CostStore store, absl::Duration period = absl::Minutes(5));
  ~CostKeeper();  // Stop

  // Returns at once; of those not saved yet, the newest counts.
  void Keep(const SavedCost& cost) EXCLUDES(mutex_);
  // Idempotent; nothing is kept afterwards.
  void Stop() EXCLUDES(mutex_);

 private:
  void Run() EXCLUDES(mutex_);

  const CostStore store_;
  const absl::Duration period_;
  Mutex mutex_;
  CondVar changed_;
  std::optional<SavedCost> unsaved_ GUARDED_BY(mutex_);
  bool stopping_ GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace longhaul::worker::leader
