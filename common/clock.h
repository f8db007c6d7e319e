#pragma once

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace longhaul {

// Where time comes from. Pure cores take `now` instead; whoever calls them holds a Clock.
// Implementations are thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual absl::Time Now() const = 0;
};

class SystemClock final : public Clock {
 public:
  absl::Time Now() const override { return absl::Now(); }
};

}  // namespace longhaul
