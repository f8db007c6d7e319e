#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

#include "common/types.h"

namespace longhaul::worker::rank {

// What a rank is busy with: written by the executor thread, read by the thread that sends
// heartbeats, without a lock between them. Thread-safe for one writer.
class StepProgress {
 public:
  struct Snapshot {
    StepId step_id = 0;  // 0 when idle
    double seconds = 0;  // since it began
  };

  void Begin(StepId step) {
    begin_.store(std::chrono::steady_clock::now().time_since_epoch().count(),
                 std::memory_order_relaxed);
    step_.store(step, std::memory_order_release);
  }
  void End() { step_.store(0, std::memory_order_release); }

  // Read between End and the next Begin's two stores, the time may be the next step's: too short,
  // never too long.
  Snapshot Read() const {
    const StepId step = step_.load(std::memory_order_acquire);
    if (step == 0) return {};
    const std::chrono::steady_clock::duration since =
        std::chrono::steady_clock::now().time_since_epoch() -
        std::chrono::steady_clock::duration(begin_.load(std::memory_order_relaxed));
    return {step, std::chrono::duration<double>(since).count()};
  }

 private:
  std::atomic<StepId> step_ = 0;
  std::atomic<std::chrono::steady_clock::rep> begin_ = 0;
};

}  // namespace longhaul::worker::rank
