#pragma once

#include <condition_variable>
#include <mutex>

#include "absl/base/thread_annotations.h"  // GUARDED_BY, NO_THREAD_SAFETY_ANALYSIS
#include "absl/time/time.h"

// Annotations for clang's -Wthread-safety besides Abseil's GUARDED_BY; empty elsewhere.
#if defined(__clang__)
#define LONGHAUL_THREAD_ANNOTATION(x) __attribute__((x))
#else
#define LONGHAUL_THREAD_ANNOTATION(x)
#endif
#define CAPABILITY(x) LONGHAUL_THREAD_ANNOTATION(capability(x))
#define SCOPED_CAPABILITY LONGHAUL_THREAD_ANNOTATION(scoped_lockable)
#define REQUIRES(...) LONGHAUL_THREAD_ANNOTATION(requires_capability(__VA_ARGS__))
#define EXCLUDES(...) LONGHAUL_THREAD_ANNOTATION(locks_excluded(__VA_ARGS__))
#define ACQUIRE(...) LONGHAUL_THREAD_ANNOTATION(acquire_capability(__VA_ARGS__))
#define RELEASE(...) LONGHAUL_THREAD_ANNOTATION(release_capability(__VA_ARGS__))

namespace longhaul {

class CondVar;

// std::mutex with annotations. Used instead of absl::Mutex because ThreadSanitizer reports false
// races inside Debian's uninstrumented Abseil.
class CAPABILITY("mutex") Mutex {
 public:
  Mutex() = default;
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;
  void Lock() ACQUIRE() { mutex_.lock(); }
  void Unlock() RELEASE() { mutex_.unlock(); }

 private:
  friend class CondVar;
  std::mutex mutex_;
};

class SCOPED_CAPABILITY MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) ACQUIRE(mutex) : mutex_(mutex) { mutex_.Lock(); }
  ~MutexLock() RELEASE() { mutex_.Unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& mutex_;
};

// std::condition_variable on a Mutex. Wakes may be spurious: wait in a loop on the condition.
class CondVar {
 public:
  void Wait(Mutex& mutex) REQUIRES(mutex) {
    std::unique_lock<std::mutex> lock(mutex.mutex_, std::adopt_lock);
    condition_.wait(lock);
    lock.release();
  }
  // Returns false if `deadline` (wall clock) passed. absl::InfiniteFuture() waits for ever.
  bool WaitUntil(Mutex& mutex, absl::Time deadline) REQUIRES(mutex) {
    if (deadline == absl::InfiniteFuture()) {
      Wait(mutex);
      return true;
    }
    std::unique_lock<std::mutex> lock(mutex.mutex_, std::adopt_lock);
    const bool woken =
        condition_.wait_until(lock, absl::ToChronoTime(deadline)) == std::cv_status::no_timeout;
    lock.release();
    return woken;
  }
  void Signal() { condition_.notify_one(); }
  void SignalAll() { condition_.notify_all(); }

 private:
  std::condition_variable condition_;
};

}  // namespace longhaul
