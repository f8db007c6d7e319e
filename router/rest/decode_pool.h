#pragma once

#include <functional>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "common/queue.h"

namespace longhaul::router::rest {

// Threads for what takes too long for an I/O thread: decompressing, reading JSON, tokenizing on
// request. Bounded: a task that finds `capacity` others waiting is refused. Thread-safe.
class DecodePool {
 public:
  DecodePool(int num_threads, size_t capacity);
  ~DecodePool() { Stop(); }
  DecodePool(const DecodePool&) = delete;
  DecodePool& operator=(const DecodePool&) = delete;

  // kResourceExhausted with a retry hint when full, kUnavailable once stopped; `task` is then
  // destroyed without having run.
  absl::Status Post(std::function<void()> task);

  // Runs what waits and joins. Idempotent; one caller at a time.
  void Stop();

 private:
  BoundedQueue<std::function<void()>> queue_;
  std::vector<std::thread> threads_;
};

}  // namespace longhaul::router::rest
