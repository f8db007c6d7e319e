#include "router/rest/rest_sink.h"

#include <utility>

namespace longhaul::router::rest {

void RestSink::Put(RestEvent event) {
  MutexLock lock(mutex_);
  if (!wake_) return;
  if (std::holds_alternative<ProgressEvent>(event) && !events_.empty() &&
      std::holds_alternative<ProgressEvent>(events_.back())) {
    events_.back() = std::move(event);
    return;
  }
  events_.push_back(std::move(event));
  // Under the lock, so that none is under way once Detach returned.
  if (events_.size() == 1) wake_();
}

std::vector<RestEvent> RestSink::Take() {
  MutexLock lock(mutex_);
  return std::exchange(events_, {});
}

void RestSink::Detach() {
  MutexLock lock(mutex_);
  wake_ = nullptr;
  events_.clear();
}

}  // namespace longhaul::router::rest
