#include "worker/leader/block_allocator.h"

#include <algorithm>
#include <random>
#include <set>

#include "tests/testing/status_matchers.h"

namespace longhaul::worker::leader {
namespace {

using ::longhaul::testing::StatusIs;
using ::testing::HasSubstr;

TEST(BlockAllocator, HandsOutEachBlockOnce) {
  BlockAllocator allocator(100);
  ASSERT_OK_AND_ASSIGN(const std::vector<BlockId> a, allocator.Allocate(40));
  ASSERT_OK_AND_ASSIGN(const std::vector<BlockId> b, allocator.Allocate(60));
  std::set<BlockId> ids(a.begin(), a.end());
  ids.insert(b.begin(), b.end());
  EXPECT_EQ(ids.size(), 100u);
  EXPECT_EQ(*ids.begin(), 0);
  EXPECT_EQ(*ids.rbegin(), 99);
  EXPECT_EQ(allocator.num_free(), 0);
}

TEST(BlockAllocator, RefusesAllOrNothingWhenShort) {
  BlockAllocator allocator(10);
  ASSERT_OK_AND_ASSIGN(const std::vector<BlockId> held, allocator.Allocate(7));
  EXPECT_THAT(allocator.Allocate(4),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("3 of 10 free")));
  EXPECT_EQ(allocator.num_free(), 3);
  EXPECT_OK(allocator.Allocate(3));
}

TEST(BlockAllocator, AllocatesNothingFromNothing) {
  BlockAllocator allocator(0);
  ASSERT_OK_AND_ASSIGN(const std::vector<BlockId> none, allocator.Allocate(0));
  EXPECT_TRUE(none.empty());
}

TEST(BlockAllocator, ASharedBlockIsFreeAfterItsLastReference) {
  BlockAllocator allocator(4);
  ASSERT_OK_AND_ASSIGN(const std::vector<BlockId> ids, allocator.Allocate(2));
  allocator.Share(ids);
  allocator.Release(ids);
  EXPECT_EQ(allocator.num_free(), 2);
  allocator.Release(ids);
  EXPECT_EQ(allocator.num_free(), 4);
}

TEST(BlockAllocatorDeathTest, ReleasingAFreeBlockIsABug) {
  BlockAllocator allocator(4);
  const std::vector<BlockId> never_allocated = {2};
  EXPECT_DEATH(allocator.Release(never_allocated), "is free");
  const std::vector<BlockId> outside = {4};
  EXPECT_DEATH(allocator.Release(outside), "num_blocks");
}

TEST(BlockAllocator, AgreesWithAModelUnderRandomUse) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(::testing::Message() << "seed=" << seed);
  std::mt19937 random(seed);
  BlockAllocator allocator(64);
  std::vector<std::vector<BlockId>> held;
  std::multiset<BlockId> live;
  for (int step = 0; step < 2000; ++step) {
    const auto action = random() % 3;
    if (action == 0) {
      const auto count = static_cast<int32_t>(random() % 20);
      auto ids = allocator.Allocate(count);
      ASSERT_EQ(ids.ok(), count <= allocator.num_free() + (ids.ok() ? count : 0));
      if (!ids.ok()) continue;
      for (const BlockId id : *ids) ASSERT_EQ(live.count(id), 0u) << "block " << id;
      live.insert(ids->begin(), ids->end());
      held.push_back(*ids);
    } else if (!held.empty()) {
      const size_t i = random() % held.size();
      if (action == 1) {
        allocator.Share(held[i]);
        live.insert(held[i].begin(), held[i].end());
        held.push_back(held[i]);
      } else {
        allocator.Release(held[i]);
        for (const BlockId id : held[i]) live.erase(live.find(id));
        held.erase(held.begin() + static_cast<ptrdiff_t>(i));
      }
    }
    const std::set<BlockId> distinct(live.begin(), live.end());
    ASSERT_EQ(allocator.num_free(), 64 - static_cast<int32_t>(distinct.size()));
  }
}

}  // namespace
}  // namespace longhaul::worker::leader
