#include "worker/leader/eviction_order.h"

#include <gtest/gtest.h>

#include <vector>

namespace longhaul::worker::leader {
namespace {

std::vector<int32_t> EvictAll(EvictionOrder& order) {
  std::vector<int32_t> evicted;
  while (const auto slot = order.Evict()) evicted.push_back(*slot);
  return evicted;
}

TEST(EvictionOrder, IsLeastRecentlyUsedWhereCostsAreEqual) {
  EvictionOrder order(4);
  for (const int32_t slot : {2, 0, 3, 1, 0}) order.Use(slot, 7);
  for (int32_t slot = 0; slot < 4; ++slot) order.SetEvictable(slot, true);
  EXPECT_EQ(EvictAll(order), (std::vector<int32_t>{2, 3, 1, 0}));
}

TEST(EvictionOrder, ChoosesAmongTheEvictableOnly) {
  EvictionOrder order(3);
  for (const int32_t slot : {0, 1, 2}) order.Use(slot, 1);
  EXPECT_EQ(order.Evict(), std::nullopt);
  order.SetEvictable(2, true);
  order.SetEvictable(0, true);
  order.SetEvictable(0, false);
  EXPECT_EQ(order.num_evictable(), 1);
  EXPECT_EQ(EvictAll(order), std::vector<int32_t>{2});
}

// One slot is used by many short things in turn, the other keeps a dear one.
TEST(EvictionOrder, ADearSlotOutlivesItsCostInCheapOnesAndNoMore) {
  EvictionOrder order(2);
  order.Use(0, 10);
  order.SetEvictable(0, true);
  int evictions = 0;
  do {
    order.Use(1, 1);
    order.SetEvictable(1, true);
    ++evictions;
  } while (order.Evict() == 1);
  EXPECT_EQ(evictions, 10);
}

TEST(EvictionOrder, UseWhileEvictableMovesASlotBack) {
  EvictionOrder order(2);
  for (const int32_t slot : {0, 1}) {
    order.Use(slot, 1);
    order.SetEvictable(slot, true);
  }
  order.Use(0, 1);
  EXPECT_EQ(EvictAll(order), (std::vector<int32_t>{1, 0}));
}

}  // namespace
}  // namespace longhaul::worker::leader
