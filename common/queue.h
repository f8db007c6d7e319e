#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <deque>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/mutex.h"

namespace longhaul {

// Bounded queue between an owner thread and those who send to it. Thread-safe.
//
// Push never blocks: kResourceExhausted when `capacity` items wait (the caller sheds), kCancelled
// after Close(). Pop blocks until an item, Close() (then drains, then nullopt) or `deadline`
// (nullopt).
template <typename T>
class BoundedQueue {
 public:
  explicit BoundedQueue(size_t capacity) : capacity_(capacity) {}

  absl::Status Push(T item) EXCLUDES(mutex_) {
    {
      MutexLock lock(mutex_);
      if (closed_) return absl::CancelledError("queue is closed");
      if (items_.size() >= capacity_) {
        return absl::ResourceExhaustedError("queue holds " + std::to_string(items_.size()) +
                                            " items, limit " + std::to_string(capacity_));
      }
      items_.push_back(std::move(item));
      worth_a_look_.store(true, std::memory_order_relaxed);
    }
    not_empty_.Signal();
    return absl::OkStatus();
  }

  std::optional<T> Pop(absl::Time deadline) EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    while (items_.empty()) {
      if (closed_) return std::nullopt;
      if (!not_empty_.WaitUntil(mutex_, deadline) && items_.empty()) return std::nullopt;
    }
    std::optional<T> item(std::move(items_.front()));
    items_.pop_front();
    worth_a_look_.store(closed_ || !items_.empty(), std::memory_order_relaxed);
    return item;
  }

  // Looks for an item for `spin` before it waits as above: for one that is expected sooner than a
  // sleeping thread wakes. Costs a core for that long, which others that are ready to run get.
  std::optional<T> Pop(absl::Time deadline, absl::Duration spin) EXCLUDES(mutex_) {
    const auto end = std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(spin);
    while (!worth_a_look_.load(std::memory_order_relaxed) &&
           std::chrono::steady_clock::now() < end) {
      std::this_thread::yield();
    }
    return Pop(deadline);
  }

  // Later pushes fail, waiting pops drain what is there. Idempotent.
  void Close() EXCLUDES(mutex_) {
    {
      MutexLock lock(mutex_);
      closed_ = true;
      worth_a_look_.store(true, std::memory_order_relaxed);
    }
    not_empty_.SignalAll();
  }

  bool closed() const EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    return closed_;
  }

  size_t size() const EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    return items_.size();
  }

 private:
  const size_t capacity_;
  mutable Mutex mutex_;
  CondVar not_empty_;
  std::deque<T> items_ GUARDED_BY(mutex_);
  bool closed_ GUARDED_BY(mutex_) = false;
  // Has items or is closed: what a spinning Pop reads. The mutex orders the items themselves.
  std::atomic<bool> worth_a_look_ = false;
};

}  // namespace longhaul
