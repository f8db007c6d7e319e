#pragma once

#include <cstdint>
#include <functional>

namespace longhaul::kernels {

// How a CPU kernel gets its work done on several threads; the caller adapts its thread pool to it.
//
// Knows nothing of the work. No kernel's result depends on num_threads() or on which thread runs
// which task. Owned by the thread that calls the kernels; Run is not reentrant from within a task.
class Parallel {
 public:
  virtual ~Parallel() = default;

  // Threads that Run uses, the caller's included; at least 1. Constant.
  virtual int num_threads() const = 0;

  // Calls task(0), ..., task(num_tasks - 1), each once, handing them out in ascending order, and
  // returns when all are done: what they wrote is then visible to the caller. Tasks do not throw.
  virtual void Run(int64_t num_tasks, const std::function<void(int64_t)>& task) = 0;
};

// Runs every task on the calling thread. Thread-safe (it has no state).
class SerialParallel final : public Parallel {
 public:
  int num_threads() const override { return 1; }
  void Run(int64_t num_tasks, const std::function<void(int64_t)>& task) override {
    for (int64_t i = 0; i < num_tasks; ++i) task(i);
  }
};

}  // namespace longhaul::kernels
