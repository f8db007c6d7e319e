#include "router/prefix_set.h"

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <vector>

namespace longhaul::router {
namespace {

class PrefixSetTest : public ::testing::Test {
 protected:
  PrefixSetTest() { RecordProperty("seed", static_cast<int>(seed_)); }
  Digest Random() { return {random_(), random_()}; }

  const uint32_t seed_ = std::random_device{}();
  std::mt19937_64 random_{seed_};
};

TEST_F(PrefixSetTest, AgreesWithASetOverRandomChanges) {
  SCOPED_TRACE(::testing::Message() << "seed=" << seed_);
  std::vector<Digest> pool(3000);
  for (Digest& identity : pool) identity = Random();
  PrefixSet set;
  std::set<Digest> expected;
  for (int step = 0; step < 500; ++step) {
    std::vector<Digest> lists[2];
    for (std::vector<Digest>& list : lists) {
      list.resize(random_() % 20);
      for (Digest& identity : list) identity = pool[random_() % pool.size()];
    }
    const PrefixSet before = set;
    const size_t size_before = before.size();
    set = set.Changed(lists[0], lists[1]);
    for (const Digest& identity : lists[1]) expected.erase(identity);
    expected.insert(lists[0].begin(), lists[0].end());
    ASSERT_EQ(set.size(), expected.size());
    ASSERT_EQ(before.size(), size_before);
  }
  for (const Digest& identity : pool) {
    ASSERT_EQ(set.Contains(identity), expected.contains(identity));
  }
}

TEST_F(PrefixSetTest, AChangeLeavesTheValueItWasMadeFromAlone) {
  const Digest a = Random(), b = Random();
  const PrefixSet first = PrefixSet().Changed({{a}}, {});
  const PrefixSet second = first.Changed({{b}}, {{a}});
  EXPECT_TRUE(first.Contains(a));
  EXPECT_FALSE(first.Contains(b));
  EXPECT_FALSE(second.Contains(a));
  EXPECT_TRUE(second.Contains(b));
}

TEST_F(PrefixSetTest, FindsTheLongestCachedPartOfAChain) {
  for (const size_t length : {0, 1, 2, 3, 100, 3946}) {
    std::vector<Digest> chain(length);
    for (Digest& identity : chain) identity = Random();
    for (size_t cached : {size_t{0}, length / 3, length - length / 2, length}) {
      const PrefixSet set = PrefixSet().Changed(std::span(chain).first(cached), {});
      EXPECT_EQ(set.CachedBlocks(chain), cached) << "of " << length;
    }
  }
}

TEST_F(PrefixSetTest, IsBounded) {
  std::vector<Digest> many(PrefixSet::kMaxSize + 10);
  for (Digest& identity : many) identity = Random();
  const PrefixSet full = PrefixSet().Changed(many, {});
  EXPECT_EQ(full.size(), PrefixSet::kMaxSize);
  const Digest late = Random();
  EXPECT_FALSE(full.Changed({{late}}, {}).Contains(late));
  EXPECT_TRUE(full.Changed({{late}}, {{many[0]}}).Contains(late));
}

}  // namespace
}  // namespace longhaul::router
