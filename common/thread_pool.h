#pragma once

#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

#include "common/mutex.h"

namespace longhaul {

// Runs the tasks of one caller on a fixed set of threads and returns when all are done.
//
// The caller's thread works too, so a pool of `num_threads` makes num_threads - 1 threads. Tasks
// are handed out one by one in ascending order; which thread takes which is not determined, so a
// task must not depend on it. Not a queue for background work: one Run at a time
// (thread-compatible).
class ThreadPool {
 public:
  // Cores that this process may run on; at least 1.
  static int UsableCores();

  // `num_threads` >= 1; 0 = UsableCores().
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // Calls task(i) once for each i in [0, num_tasks). `task` must not call Run of the same pool.
  void Run(int64_t num_tasks, const std::function<void(int64_t)>& task) EXCLUDES(mutex_);

  int num_threads() const { return static_cast<int>(threads_.size()) + 1; }

 private:
  void Work() EXCLUDES(mutex_);
  // Takes and runs tasks of the current job until none is left.
  void RunTasks() REQUIRES(mutex_);

  Mutex mutex_;
  CondVar job_posted_;
  CondVar job_done_;
  const std::function<void(int64_t)>* task_ GUARDED_BY(mutex_) = nullptr;  // null between jobs
  int64_t next_task_ GUARDED_BY(mutex_) = 0;
  int64_t num_tasks_ GUARDED_BY(mutex_) = 0;
  int64_t unfinished_ GUARDED_BY(mutex_) = 0;
  bool stopping_ GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace longhaul
