#include "worker/leader/prefix_cache.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "tests/testing/status_matchers.h"

namespace longhaul::worker::leader {
namespace {

using ::longhaul::testing::StatusIs;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Tier = KvMove::Tier;

constexpr Digest kRoot = {1, 2};

// Tokens of `blocks` blocks, another text for each `text`.
std::vector<TokenId> Text(int text, int blocks) {
  std::vector<TokenId> tokens(static_cast<size_t>(blocks) * kKvBlockTokens);
  std::iota(tokens.begin(), tokens.end(), text * 1'000'000);
  return tokens;
}

class PrefixCacheTest : public ::testing::Test {
 protected:
  // Runs a prompt through: takes what is cached, computes and publishes the rest.
  std::vector<BlockId> Run(PrefixCache& cache, const std::vector<TokenId>& tokens) {
    PrefixCache::Match match = cache.Acquire(kRoot, tokens, std::ssize(tokens));
    std::vector<BlockId> blocks = match.blocks;
    const auto num_blocks = static_cast<int32_t>(tokens.size()) / kKvBlockTokens;
    const auto fresh = cache.Allocate(num_blocks - static_cast<int32_t>(blocks.size())).value();
    blocks.insert(blocks.end(), fresh.begin(), fresh.end());
    Digest last = match.last;
    for (size_t i = match.blocks.size(); i < blocks.size(); ++i) {
      last = cache.Publish(last, BlockOf(tokens, i), static_cast<int64_t>(i) * kKvBlockTokens,
                           blocks[i]);
    }
    return blocks;
  }
  void RunAndEnd(PrefixCache& cache, const std::vector<TokenId>& tokens) {
    cache.Release(Run(cache, tokens));
  }
  static std::span<const TokenId> BlockOf(const std::vector<TokenId>& tokens, size_t block) {
    return std::span(tokens).subspan(block * kKvBlockTokens, kKvBlockTokens);
  }
  static int64_t Cached(const PrefixCache& cache, const std::vector<TokenId>& tokens) {
    return cache.CachedTokens(kRoot, tokens, std::ssize(tokens)) / kKvBlockTokens;
  }
};

TEST_F(PrefixCacheTest, HandsOutEachBlockOnceAndAllOrNothing) {
  PrefixCache cache(10);
  ASSERT_OK_AND_ASSIGN(std::vector<BlockId> held, cache.Allocate(7));
  EXPECT_THAT(cache.Allocate(4),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("3 of 10 available")));
  EXPECT_EQ(cache.num_available(), 3);
  ASSERT_OK_AND_ASSIGN(const std::vector<BlockId> rest, cache.Allocate(3));
  held.insert(held.end(), rest.begin(), rest.end());
  std::ranges::sort(held);
  std::vector<BlockId> all(10);
  std::iota(all.begin(), all.end(), 0);
  EXPECT_EQ(held, all);
}

TEST_F(PrefixCacheTest, AGroupWithoutBlocksGivesNone) {
  PrefixCache cache;
  EXPECT_EQ(cache.num_blocks(), 0);
  EXPECT_EQ(cache.num_available(), 0);
  ASSERT_OK_AND_ASSIGN(const std::vector<BlockId> none, cache.Allocate(0));
  EXPECT_THAT(none, IsEmpty());
  EXPECT_FALSE(cache.Allocate(1).ok());
}

TEST_F(PrefixCacheTest, APublishedPrefixIsFoundWhileHeldAndAfterwards) {
  PrefixCache cache(10);
  const std::vector<TokenId> text = Text(0, 4);
  const std::vector<BlockId> blocks = Run(cache, text);
  const PrefixCache::Match shared = cache.Acquire(kRoot, text, std::ssize(text));
  EXPECT_EQ(shared.blocks, blocks);
  EXPECT_EQ(shared.last, PrefixChain(kRoot, text).back());
  EXPECT_EQ(cache.num_referenced(), 4);
  cache.Release(blocks);
  cache.Release(shared.blocks);
  EXPECT_EQ(cache.num_referenced(), 0);
  EXPECT_EQ(cache.num_available(), 10);
  EXPECT_EQ(cache.Acquire(kRoot, text, std::ssize(text)).blocks, blocks);
}

TEST_F(PrefixCacheTest, FindsCompleteBlocksWithinTheLimitOnly) {
  PrefixCache cache(10);
  std::vector<TokenId> text = Text(0, 4);
  RunAndEnd(cache, text);
  EXPECT_EQ(cache.CachedTokens(kRoot, text, std::ssize(text) - 1), 3 * kKvBlockTokens);
  EXPECT_EQ(cache.CachedTokens(kRoot, text, 255), 0);
  EXPECT_EQ(cache.CachedTokens(kRoot, text, 0), 0);
  EXPECT_EQ(cache.CachedTokens(kRoot, text, -1), 0);
  text[700] = -1;
  EXPECT_EQ(Cached(cache, text), 2);
  text.resize(300);
  EXPECT_EQ(Cached(cache, text), 1);
  EXPECT_EQ(cache.CachedTokens({1, 3}, text, 300), 0);  // another tenant's
}

TEST_F(PrefixCacheTest, BlocksThatWereNotPublishedAreFreeOnRelease) {
  PrefixCache cache(4);
  ASSERT_OK_AND_ASSIGN(const std::vector<BlockId> blocks, cache.Allocate(4));
  const std::vector<TokenId> text = Text(0, 4);
  cache.Publish(kRoot, BlockOf(text, 0), 0, blocks[0]);
  cache.Release(blocks);
  EXPECT_EQ(cache.num_available(), 4);
  EXPECT_EQ(cache.num_cached(Tier::kDevice), 1);
  EXPECT_EQ(Cached(cache, text), 1);
}

TEST_F(PrefixCacheTest, TheSecondToPublishKeepsItsBlocksToItself) {
  PrefixCache cache(8);
  const std::vector<TokenId> text = Text(0, 2);
  ASSERT_OK_AND_ASSIGN(const std::vector<BlockId> second, cache.Allocate(2));
  const std::vector<BlockId> first = Run(cache, text);
  const Digest last = cache.Publish(kRoot, BlockOf(text, 0), 0, second[0]);
  EXPECT_EQ(last, ExtendPrefix(kRoot, BlockOf(text, 0)));
  EXPECT_TRUE(cache.complete(second[0]));
  cache.Publish(last, BlockOf(text, 1), kKvBlockTokens, second[1]);
  cache.Release(second);
  EXPECT_EQ(cache.num_cached(Tier::kDevice), 2);
  EXPECT_EQ(cache.num_referenced(), 2);
  EXPECT_EQ(cache.Acquire(kRoot, text, 512).blocks, first);
  cache.Release(first);
  cache.Release(first);
  EXPECT_EQ(cache.num_available(), 8);
}

// Else publishing could take memory that was counted on.
TEST_F(PrefixCacheTest, ABlockThatNobodyHoldsMakesRoomForItsTwin) {
  PrefixCache cache(4);
  const std::vector<TokenId> text = Text(0, 2);
  ASSERT_OK_AND_ASSIGN(const std::vector<BlockId> second, cache.Allocate(2));
  RunAndEnd(cache, Text(0, 1));
  EXPECT_EQ(cache.num_available(), 2);
  const Digest last = cache.Publish(kRoot, BlockOf(text, 0), 0, second[0]);
  cache.Publish(last, BlockOf(text, 1), kKvBlockTokens, second[1]);
  EXPECT_EQ(cache.num_available(), 2);
  EXPECT_EQ(cache.Acquire(kRoot, text, 512).blocks, second);
}

// The second goes on behind the first one's block, which must stay as long as what follows it.
TEST_F(PrefixCacheTest, ABlockStaysWhileAnotherSequenceHoldsWhatFollowsIt) {
  PrefixCache cache(4);
  const std::vector<TokenId> text = Text(0, 2);
  ASSERT_OK_AND_ASSIGN(const std::vector<BlockId> second, cache.Allocate(2));
  const std::vector<BlockId> first = Run(cache, Text(0, 1));
  const Digest last = cache.Publish(kRoot, BlockOf(text, 0), 0, second[0]);
  cache.Release(first);
  EXPECT_EQ(cache.num_available(), 1);
  cache.Publish(last, BlockOf(text, 1), kKvBlockTokens, second[1]);
  EXPECT_EQ(cache.num_available(), 1);
  EXPECT_OK(cache.Allocate(1));
  EXPECT_EQ(Cached(cache, text), 2);
  cache.Release(second);
  EXPECT_EQ(cache.num_available(), 3);
  EXPECT_EQ(Cached(cache, text), 2);
}

TEST_F(PrefixCacheTest, WhatFollowsABlockThatIsNotCachedIsNotFound) {
  PrefixCache cache(4);
  const std::vector<TokenId> text = Text(0, 2);
  ASSERT_OK_AND_ASSIGN(const std::vector<BlockId> blocks, cache.Allocate(2));
  const Digest missing = ExtendPrefix(kRoot, BlockOf(text, 0));
  cache.Publish(missing, BlockOf(text, 1), kKvBlockTokens, blocks[1]);
  EXPECT_EQ(cache.num_cached(Tier::kDevice), 0);
  cache.Release(blocks);
  EXPECT_EQ(cache.num_available(), 4);
}

TEST_F(PrefixCacheTest, EvictsTheEndOfThePrefixThatWasUsedLongestAgo) {
  PrefixCache cache(6);
  RunAndEnd(cache, Text(0, 3));
  RunAndEnd(cache, Text(1, 3));
  EXPECT_OK(cache.Allocate(1));
  EXPECT_EQ(Cached(cache, Text(0, 3)), 2);
  EXPECT_EQ(Cached(cache, Text(1, 3)), 3);
  EXPECT_EQ(cache.num_dropped(), 1);
}

TEST_F(PrefixCacheTest, NeverEvictsWhatIsHeld) {
  PrefixCache cache(6);
  const std::vector<BlockId> held = Run(cache, Text(0, 3));
  RunAndEnd(cache, Text(1, 3));
  EXPECT_EQ(cache.num_available(), 3);
  EXPECT_OK(cache.Allocate(3));
  EXPECT_EQ(Cached(cache, Text(0, 3)), 3);
  EXPECT_EQ(Cached(cache, Text(1, 3)), 0);
}

TEST_F(PrefixCacheTest, AFloodOfShortPromptsSparesALongPrefixFarLongerThanOneOfItsKind) {
  constexpr int kLong = 1024;  // 262,144 tokens
  const auto prompts_until_shorter = [this](int long_blocks) {
    PrefixCache cache(kLong + 16);
    // The rest of the cache is held by others.
    const auto held = cache.Allocate(kLong - long_blocks);
    RunAndEnd(cache, Text(0, long_blocks));
    int prompts = 0;
    while (Cached(cache, Text(0, long_blocks)) == long_blocks) {
      RunAndEnd(cache, Text(++prompts, 1));
    }
    return prompts;
  };
  const int of_a_short_one = prompts_until_shorter(1);
  const int of_a_long_one = prompts_until_shorter(kLong);
  EXPECT_LE(of_a_short_one, 17);
  EXPECT_GE(of_a_long_one, 7 * of_a_short_one);
}

TEST_F(PrefixCacheTest, TellsWhatBecameFindableAndWhatCeasedTo) {
  PrefixCache cache(2);
  EXPECT_THAT(cache.TakeChanges().added, IsEmpty());
  RunAndEnd(cache, Text(0, 1));
  RunAndEnd(cache, Text(1, 1));
  PrefixChanges changes = cache.TakeChanges();
  EXPECT_THAT(changes.added, ::testing::UnorderedElementsAre(PrefixChain(kRoot, Text(0, 1))[0],
                                                             PrefixChain(kRoot, Text(1, 1))[0]));
  EXPECT_THAT(changes.removed, IsEmpty());
  RunAndEnd(cache, Text(2, 1));
  RunAndEnd(cache, Text(0, 1));  // gone and back, so no news; the place was the second one's
  changes = cache.TakeChanges();
  EXPECT_THAT(changes.added, ::testing::ElementsAre(PrefixChain(kRoot, Text(2, 1))[0]));
  EXPECT_THAT(changes.removed, ::testing::ElementsAre(PrefixChain(kRoot, Text(1, 1))[0]));
  cache.GroupDown();
  EXPECT_EQ(cache.TakeChanges().removed.size(), 2u);
}

TEST_F(PrefixCacheTest, AfterTheGroupWentDownNothingIsHeldNorFound) {
  PrefixCache cache(4);
  Run(cache, Text(0, 2));
  cache.GroupDown();
  EXPECT_EQ(cache.num_blocks(), 0);
  EXPECT_EQ(cache.num_referenced(), 0);
  cache.GroupUp(3);
  EXPECT_EQ(cache.num_available(), 3);
  EXPECT_EQ(Cached(cache, Text(0, 2)), 0);
  RunAndEnd(cache, Text(0, 2));
  EXPECT_EQ(Cached(cache, Text(0, 2)), 2);
}

using PrefixCacheDeathTest = PrefixCacheTest;

TEST_F(PrefixCacheDeathTest, ReleasingABlockThatIsNotHeldIsABug) {
  PrefixCache cache(4);
  const std::vector<BlockId> never_allocated = {2};
  EXPECT_DEATH(cache.Release(never_allocated), "is not held");
  const std::vector<BlockId> outside = {4};
  EXPECT_DEATH(cache.Release(outside), "block=4 of 4");
}

}  // namespace
}  // namespace longhaul::worker::leader
