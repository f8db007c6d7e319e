// Prefixes behind the device: what PrefixCache asks the ranks to move, and when it believes it.
#include <numeric>
#include <vector>

#include "tests/testing/status_matchers.h"
#include "worker/leader/prefix_cache.h"

namespace longhaul::worker {

bool operator==(const KvMove& a, const KvMove& b) {
  return a.from == b.from && a.from_index == b.from_index && a.to == b.to &&
         a.to_index == b.to_index;
}
void PrintTo(const KvMove& move, std::ostream* out) {
  constexpr const char* kNames[] = {"device", "host", "disk"};
  *out << kNames[static_cast<int>(move.from)] << " " << move.from_index << " -> "
       << kNames[static_cast<int>(move.to)] << " " << move.to_index;
}

namespace leader {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using Tier = KvMove::Tier;

constexpr Digest kRoot = {1, 2};

std::vector<TokenId> Text(int text, int blocks) {
  std::vector<TokenId> tokens(static_cast<size_t>(blocks) * kKvBlockTokens);
  std::iota(tokens.begin(), tokens.end(), text * 1'000'000);
  return tokens;
}

class PrefixTiersTest : public ::testing::Test {
 protected:
  // Computes a prompt that is not cached and ends it.
  static std::vector<BlockId> RunAndEnd(PrefixCache& cache, const std::vector<TokenId>& tokens) {
    const auto count = static_cast<int32_t>(tokens.size()) / kKvBlockTokens;
    const std::vector<BlockId> blocks = cache.Allocate(count).value();
    Digest last = kRoot;
    for (int32_t i = 0; i < count; ++i) {
      const int64_t begin = int64_t{i} * kKvBlockTokens;
      last =
          cache.Publish(last, std::span(tokens).subspan(static_cast<size_t>(begin), kKvBlockTokens),
                        begin, blocks[static_cast<size_t>(i)]);
    }
    cache.Release(blocks);
    return blocks;
  }
  static void Displace(PrefixCache& cache) {
    cache.Release(cache.Allocate(cache.num_available()).value());
  }
  static int32_t Restorable(PrefixCache& cache, const std::vector<TokenId>& tokens) {
    const PrefixCache::Match match = cache.Acquire(kRoot, tokens, std::ssize(tokens));
    cache.Release(match.blocks);
    return match.restorable;
  }
  static int64_t Cached(const PrefixCache& cache, const std::vector<TokenId>& tokens) {
    return cache.CachedTokens(kRoot, tokens, std::ssize(tokens)) / kKvBlockTokens;
  }
};

TEST_F(PrefixTiersTest, WhatIsEvictedGoesToTheHostAndComesBack) {
  PrefixCache cache(2, {.host = 2});
  const std::vector<TokenId> text = Text(0, 2);
  RunAndEnd(cache, text);
  Displace(cache);
  EXPECT_EQ(cache.TakeMoves(1).size(), 2u);
  EXPECT_EQ(Cached(cache, text), 0);
  EXPECT_EQ(Restorable(cache, text), 2);

  ASSERT_OK_AND_ASSIGN(const std::vector<BlockId> blocks, cache.Allocate(2));
  EXPECT_EQ(cache.Restore(kRoot, text, blocks, 0, 10), 2);
  EXPECT_TRUE(cache.restoring(blocks[0]) && cache.restoring(blocks[1]));
  EXPECT_EQ(cache.TakeMoves(2).size(), 2u);
  cache.MovesDone(1, {});
  EXPECT_FALSE(cache.complete(blocks[0]));
  EXPECT_EQ(Cached(cache, text), 0);
  cache.MovesDone(2, {});
  EXPECT_TRUE(cache.complete(blocks[0]) && cache.complete(blocks[1]));
  EXPECT_EQ(Cached(cache, text), 2);
  EXPECT_EQ(cache.num_cached(Tier::kHost), 0);  // its slots are free again
  cache.Release(blocks);
  EXPECT_EQ(cache.num_available(), 2);
}

TEST_F(PrefixTiersTest, TheHostMakesRoomBeforeItTakes) {
  PrefixCache cache(1, {.host = 1, .disk = 1});
  RunAndEnd(cache, Text(0, 1));
  RunAndEnd(cache, Text(1, 1));
  EXPECT_THAT(cache.TakeMoves(1), ElementsAre(KvMove{Tier::kDevice, 0, Tier::kHost, 0}));
  RunAndEnd(cache, Text(2, 1));
  EXPECT_THAT(cache.TakeMoves(2), ElementsAre(KvMove{Tier::kHost, 0, Tier::kDisk, 0},
                                              KvMove{Tier::kDevice, 0, Tier::kHost, 0}));
  RunAndEnd(cache, Text(3, 1));
  EXPECT_EQ(Restorable(cache, Text(0, 1)), 0);
  EXPECT_EQ(Restorable(cache, Text(1, 1)), 1);
  EXPECT_EQ(Restorable(cache, Text(2, 1)), 1);
  EXPECT_EQ(cache.num_dropped(), 1);
}

TEST_F(PrefixTiersTest, ACopyOnDiskIsNotWrittenTwice) {
  PrefixCache cache(1, {.disk = 4});
  const std::vector<TokenId> text = Text(0, 1);
  RunAndEnd(cache, text);
  Displace(cache);
  EXPECT_THAT(cache.TakeMoves(1), ElementsAre(KvMove{Tier::kDevice, 0, Tier::kDisk, 0}));
  ASSERT_OK_AND_ASSIGN(const std::vector<BlockId> blocks, cache.Allocate(1));
  EXPECT_EQ(cache.Restore(kRoot, text, blocks, 0, 1), 1);
  EXPECT_THAT(cache.TakeMoves(2), ElementsAre(KvMove{Tier::kDisk, 0, Tier::kDevice, 0}));
  cache.MovesDone(1, {});
  cache.MovesDone(2, {});
  cache.Release(blocks);
  Displace(cache);
  EXPECT_THAT(cache.TakeMoves(3), IsEmpty());
  EXPECT_EQ(Restorable(cache, text), 1);
}

TEST_F(PrefixTiersTest, AFailedWriteDropsTheEntry) {
  PrefixCache cache(2, {.host = 2});
  const std::vector<TokenId> text = Text(0, 2);
  RunAndEnd(cache, text);
  Displace(cache);
  // The end of the prefix went first; its copy is the first move.
  EXPECT_EQ(cache.TakeMoves(1).size(), 2u);
  cache.MovesDone(1, std::vector<int32_t>{0});
  EXPECT_EQ(Restorable(cache, text), 1);
  EXPECT_EQ(cache.num_cached(Tier::kHost), 1);
}

// A store that failed may leave what the slot held before, which reads well.
TEST_F(PrefixTiersTest, WhatWasRestoredFromAFailedWriteIsNotBelieved) {
  PrefixCache cache(1, {.disk = 1});
  const std::vector<TokenId> text = Text(0, 1);
  RunAndEnd(cache, text);
  Displace(cache);
  cache.TakeMoves(1);
  ASSERT_OK_AND_ASSIGN(const std::vector<BlockId> blocks, cache.Allocate(1));
  EXPECT_EQ(cache.Restore(kRoot, text, blocks, 0, 1), 1);
  cache.TakeMoves(2);
  cache.MovesDone(1, std::vector<int32_t>{0});
  cache.MovesDone(2, {});
  EXPECT_FALSE(cache.complete(blocks[0]) || cache.restoring(blocks[0]));
  EXPECT_EQ(Cached(cache, text), 0);
}

TEST_F(PrefixTiersTest, AFailedRestoreDropsTheEntryAndTheSequenceComputesFromThere) {
  PrefixCache cache(3, {.host = 3});
  const std::vector<TokenId> text = Text(0, 3);
  RunAndEnd(cache, text);
  Displace(cache);
  cache.TakeMoves(1);
  cache.MovesDone(1, {});
  ASSERT_OK_AND_ASSIGN(const std::vector<BlockId> blocks, cache.Allocate(3));
  EXPECT_EQ(cache.Restore(kRoot, text, blocks, 0, 3), 3);
  cache.TakeMoves(2);
  cache.MovesDone(2, std::vector<int32_t>{1});
  EXPECT_TRUE(cache.complete(blocks[0]));
  EXPECT_FALSE(cache.complete(blocks[1]) || cache.restoring(blocks[1]));
  EXPECT_FALSE(cache.complete(blocks[2]));  // it will be written again
  EXPECT_EQ(Cached(cache, text), 1);
  Digest last = PrefixChain(kRoot, text)[0];
  last = cache.Publish(last, std::span(text).subspan(256, 256), 256, blocks[1]);
  cache.Publish(last, std::span(text).subspan(512, 256), 512, blocks[2]);
  EXPECT_EQ(Cached(cache, text), 3);
  EXPECT_EQ(cache.num_cached(Tier::kHost), 0);
}

TEST_F(PrefixTiersTest, RestoresTheBlocksBehindThoseOnTheDeviceAsManyAsAllowed) {
  PrefixCache cache(6, {.host = 6});
  const std::vector<TokenId> text = Text(0, 6);
  RunAndEnd(cache, text);
  cache.Release(cache.Allocate(4).value());
  PrefixCache::Match match = cache.Acquire(kRoot, text, std::ssize(text));
  EXPECT_EQ(match.blocks.size(), 2u);
  EXPECT_EQ(match.restorable, 4);
  const std::vector<BlockId> fresh = cache.Allocate(4).value();
  match.blocks.insert(match.blocks.end(), fresh.begin(), fresh.end());
  EXPECT_EQ(cache.Restore(kRoot, text, match.blocks, 2, 3), 3);
  EXPECT_EQ(cache.Restore(kRoot, text, match.blocks, 5, 3), 1);
  EXPECT_EQ(cache.TakeMoves(1).size(), 8u);
  cache.MovesDone(1, {});
  EXPECT_EQ(Cached(cache, text), 6);
}

// The slot that is read is the next one that would have to go.
TEST_F(PrefixTiersTest, ACopyStaysWhileItIsBeingRestored) {
  PrefixCache cache(3, {.host = 1});
  const std::vector<TokenId> text = Text(0, 1);
  RunAndEnd(cache, text);
  Displace(cache);
  ASSERT_OK_AND_ASSIGN(const std::vector<BlockId> blocks, cache.Allocate(1));
  EXPECT_EQ(cache.Restore(kRoot, text, blocks, 0, 1), 1);
  RunAndEnd(cache, Text(1, 2));
  Displace(cache);  // finds no slot in host memory
  EXPECT_EQ(cache.TakeMoves(1).size(), 2u);
  cache.MovesDone(1, {});
  EXPECT_TRUE(cache.complete(blocks[0]));
  EXPECT_EQ(Cached(cache, text), 1);
}

TEST_F(PrefixTiersTest, ASequenceThatGivesUpItsRestoreGetsNothing) {
  PrefixCache cache(1, {.host = 1});
  const std::vector<TokenId> text = Text(0, 1);
  RunAndEnd(cache, text);
  Displace(cache);
  ASSERT_OK_AND_ASSIGN(std::vector<BlockId> blocks, cache.Allocate(1));
  EXPECT_EQ(cache.Restore(kRoot, text, blocks, 0, 1), 1);
  cache.TakeMoves(1);
  cache.Release(blocks);
  ASSERT_OK_AND_ASSIGN(blocks, cache.Allocate(1));  // another's, perhaps written by now
  cache.MovesDone(1, {});
  EXPECT_FALSE(cache.complete(blocks[0]));
  EXPECT_EQ(Cached(cache, text), 0);
  EXPECT_EQ(Restorable(cache, text), 1);
}

TEST_F(PrefixTiersTest, APlanMovesABoundedNumberOfBlocksOut) {
  constexpr int32_t kBlocks = PrefixCache::kMaxMovesDown + 50;
  PrefixCache cache(kBlocks, {.host = kBlocks, .disk = kBlocks});
  const std::vector<TokenId> text = Text(0, kBlocks);
  RunAndEnd(cache, text);
  Displace(cache);
  EXPECT_EQ(cache.TakeMoves(1).size(), static_cast<size_t>(PrefixCache::kMaxMovesDown));
  EXPECT_EQ(cache.num_dropped(), 50);
}

TEST_F(PrefixTiersTest, TheDiskOutlivesTheRanksIfItWasKept) {
  for (const bool kept : {true, false}) {
    PrefixCache cache(2, {.host = 1, .disk = 2});
    RunAndEnd(cache, Text(0, 1));
    Displace(cache);
    RunAndEnd(cache, Text(1, 1));
    Displace(cache);  // the first is on disk, the second in host memory
    cache.TakeMoves(1);
    cache.MovesDone(1, {});
    RunAndEnd(cache, Text(2, 1));
    Displace(cache);  // the second goes to disk, which no rank has confirmed
    cache.GroupDown();
    cache.GroupUp(2, {.host = 1, .disk = 2}, kept);
    EXPECT_EQ(Restorable(cache, Text(0, 1)), kept ? 1 : 0);
    EXPECT_EQ(Restorable(cache, Text(1, 1)), 0);
    EXPECT_EQ(Restorable(cache, Text(2, 1)), 0);
    EXPECT_EQ(cache.num_available(), 2);
    EXPECT_FALSE(cache.has_moves());
  }
}

TEST_F(PrefixTiersTest, APrefixIsAnnouncedAsLongAsSomeTierHasIt) {
  PrefixCache cache(1, {.host = 1});
  RunAndEnd(cache, Text(0, 1));
  EXPECT_EQ(cache.TakeChanges().added.size(), 1u);
  Displace(cache);
  PrefixChanges changes = cache.TakeChanges();
  EXPECT_THAT(changes.added, IsEmpty());
  EXPECT_THAT(changes.removed, IsEmpty());
  RunAndEnd(cache, Text(1, 1));
  Displace(cache);
  changes = cache.TakeChanges();
  EXPECT_THAT(changes.removed, ElementsAre(PrefixChain(kRoot, Text(0, 1))[0]));
}

}  // namespace
}  // namespace leader
}  // namespace longhaul::worker
