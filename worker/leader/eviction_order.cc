#include "worker/leader/eviction_order.h"

#include <algorithm>

namespace longhaul::worker::leader {

EvictionOrder::Place EvictionOrder::PlaceOf(int32_t slot) const {
  const Slot& s = slots_[static_cast<size_t>(slot)];
  return {s.priority, s.last_use, slot};
}

void EvictionOrder::Use(int32_t slot, int64_t cost) {
  Slot& s = slots_[static_cast<size_t>(slot)];
  if (s.evictable) line_.erase(PlaceOf(slot));
  s.priority = clock_ + cost;
  s.last_use = ++num_uses_;
  if (s.evictable) line_.insert(PlaceOf(slot));
}

void EvictionOrder::SetEvictable(int32_t slot, bool evictable) {
  Slot& s = slots_[static_cast<size_t>(slot)];
  if (s.evictable == evictable) return;
  s.evictable = evictable;
  if (evictable) {
    line_.insert(PlaceOf(slot));
  } else {
    line_.erase(PlaceOf(slot));
  }
}

std::optional<int32_t> EvictionOrder::Evict() {
  if (line_.empty()) return std::nullopt;
  const auto [priority, last_use, slot] = *line_.begin();
  // What was held back by a child may have a priority below the clock.
  clock_ = std::max(clock_, priority);
  SetEvictable(slot, false);
  return slot;
}

}  // namespace longhaul::worker::leader
