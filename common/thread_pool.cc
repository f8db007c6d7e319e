#include "common/thread_pool.h"

#include <sched.h>

#include <algorithm>

#include "common/logging.h"

namespace longhaul {

int ThreadPool::UsableCores() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

ThreadPool::ThreadPool(int num_threads) {
  CHECK(num_threads >= 0) << "num_threads=" << num_threads;
  if (num_threads == 0) num_threads = UsableCores();
  for (int i = 1; i < num_threads; ++i) threads_.emplace_back([this] { Work(); });
}

ThreadPool::~ThreadPool() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
  }
  job_posted_.SignalAll();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::Run(int64_t num_tasks, const std::function<void(int64_t)>& task) {
  if (num_tasks <= 0) return;
  if (threads_.empty() || num_tasks == 1) {
    for (int64_t i = 0; i < num_tasks; ++i) task(i);
    return;
  }
  {
    MutexLock lock(mutex_);
    CHECK(task_ == nullptr) << "Run called while another Run is in progress";
    task_ = &task;
    next_task_ = 0;
    num_tasks_ = num_tasks;
    unfinished_ = num_tasks;
  }
  job_posted_.SignalAll();
  MutexLock lock(mutex_);
  RunTasks();
  while (unfinished_ > 0) job_done_.Wait(mutex_);
  task_ = nullptr;
}

void ThreadPool::Work() {
  MutexLock lock(mutex_);
  while (!stopping_) {
    if (task_ != nullptr && next_task_ < num_tasks_) {
      RunTasks();
    } else {
      job_posted_.Wait(mutex_);
    }
  }
}

void ThreadPool::RunTasks() {
  while (task_ != nullptr && next_task_ < num_tasks_) {
    const int64_t i = next_task_++;
    const std::function<void(int64_t)>& task = *task_;
    mutex_.Unlock();
    task(i);
    mutex_.Lock();
    if (--unfinished_ == 0) job_done_.SignalAll();
  }
}

}  // namespace longhaul
