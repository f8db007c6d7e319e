#pragma once

#include <atomic>
#include <cstdint>

#include "common/clock.h"

namespace longhaul::testing {

// The time, plus what a test adds to it: as for a process that was stopped meanwhile. Whoever waits
// until a time of this clock waits longer by as much, unless something else wakes it. Thread-safe.
class JumpingClock final : public Clock {
 public:
  absl::Time Now() const override { return absl::Now() + absl::Seconds(seconds_.load()); }
  void Jump(int64_t seconds) { seconds_.fetch_add(seconds); }

 private:
  std::atomic<int64_t> seconds_ = 0;
};

}  // namespace longhaul::testing
