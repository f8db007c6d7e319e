#include "worker/leader/cost_keeper.h"

#include <utility>

#include "absl/time/clock.h"
#include "common/logging.h"

namespace longhaul::worker::leader {

CostKeeper::CostKeeper(CostStore store, absl::Duration period)
    : store_(std::move(store)), period_(period), thread_([this] { Run(); }) {}

CostKeeper::~CostKeeper() { Stop(); }

void CostKeeper::Keep(const SavedCost& cost) {
  MutexLock lock(mutex_);
  if (stopping_) return;
  // Wakes the thread only when it has nothing: it looks by itself when the period is over.
  if (!unsaved_) changed_.Signal();
  unsaved_ = cost;
}

void CostKeeper::Stop() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    changed_.Signal();
  }
  if (thread_.joinable()) thread_.join();
}

void CostKeeper::Run() {
  absl::Time next = absl::InfinitePast();
  while (true) {
    SavedCost cost;
    {
      MutexLock lock(mutex_);
      while (!stopping_ && (!unsaved_ || absl::Now() < next)) {
        changed_.WaitUntil(mutex_, unsaved_ ? next : absl::InfiniteFuture());
      }
      if (!unsaved_) return;
      cost = *std::exchange(unsaved_, std::nullopt);
    }
    if (const absl::Status saved = store_.Save(cost); !saved.ok()) {
      LOG(ERROR) << "event=cost_not_saved why=\"" << saved.message() << "\"";
    } else {
      LOG(INFO) << "event=cost_saved hardware=\"" << cost.hardware << "\"";
    }
    next = absl::Now() + period_;
  }
}

}  // namespace longhaul::worker::leader
