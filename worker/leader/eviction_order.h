#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <tuple>
#include <vector>

namespace longhaul::worker::leader {

// Which slot of a cache goes first, by GreedyDual (Cao and Irani, "Cost-aware WWW proxy caching
// algorithms", 1997): at each use a slot's priority becomes the clock plus the cost of bringing its
// content back; the lowest priority goes, and the clock becomes that priority. With equal costs
// this is least recently used; a slot with k times the cost outlives k times as many evictions.
// Ties go by last use.
//
// Knows slots by number only. Thread-compatible; deterministic; O(log n) a call.
class EvictionOrder {
 public:
  explicit EvictionOrder(int32_t num_slots) : slots_(static_cast<size_t>(num_slots)) {}

  // The slot is used now. `cost` >= 0.
  void Use(int32_t slot, int64_t cost);
  // Whether it may be chosen. At first none may.
  void SetEvictable(int32_t slot, bool evictable);
  // The evictable slot that goes first, if there is one. The clock moves on; the slot is evictable
  // no longer.
  std::optional<int32_t> Evict();

  int32_t num_evictable() const { return static_cast<int32_t>(line_.size()); }

 private:
  using Place = std::tuple<int64_t, uint64_t, int32_t>;  // priority, last use, slot
  struct Slot {
    int64_t priority = 0;
    uint64_t last_use = 0;
    bool evictable = false;
  };
  Place PlaceOf(int32_t slot) const;

  std::vector<Slot> slots_;
  std::set<Place> line_;  // the evictable ones
  int64_t clock_ = 0;
  uint64_t num_uses_ = 0;
};

}  // namespace longhaul::worker::leader
