#include "common/text/byte_pair_encoder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace longhaul::text {
namespace {

using ::testing::ElementsAre;
using Merge = BytePairEncoder::Merge;

std::array<TokenId, 256> Bytes() {
  std::array<TokenId, 256> ids;
  std::iota(ids.begin(), ids.end(), 0);
  return ids;
}

std::vector<TokenId> Encode(const std::vector<Merge>& merges, std::string_view word) {
  BytePairEncoder::Workspace workspace;
  std::vector<TokenId> ids;
  BytePairEncoder(Bytes(), merges).Encode(word, workspace, ids);
  return ids;
}

// The definition, quadratic: the lowest rank first, the leftmost of equals.
std::vector<TokenId> Merged(const std::vector<Merge>& merges, std::string_view word) {
  std::map<std::pair<TokenId, TokenId>, size_t> ranks;
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    ranks[{merges[rank].left, merges[rank].right}] = rank;
  }
  std::vector<TokenId> ids;
  for (const char c : word) ids.push_back(static_cast<uint8_t>(c));
  std::vector<size_t> rank_at(ids.size(), merges.size());  // of each token and the next
  const auto look_up = [&](size_t i) {
    const auto it = i + 1 < ids.size() ? ranks.find({ids[i], ids[i + 1]}) : ranks.end();
    rank_at[i] = it == ranks.end() ? merges.size() : it->second;
  };
  for (size_t i = 0; i < ids.size(); ++i) look_up(i);
  while (!ids.empty()) {
    const auto best = std::ranges::min_element(rank_at);
    if (*best == merges.size()) break;
    const auto at = best - rank_at.begin();
    ids[static_cast<size_t>(at)] = merges[*best].result;
    ids.erase(ids.begin() + at + 1);
    rank_at.erase(best + 1);
    look_up(static_cast<size_t>(at));
    if (at > 0) look_up(static_cast<size_t>(at) - 1);
  }
  return ids;
}

// Merges over three letters, each of tokens that exist by then.
std::vector<Merge> RandomMerges(std::mt19937& rng, TokenId count) {
  std::vector<TokenId> known = {'a', 'b', 'c'};
  std::vector<Merge> merges;
  for (TokenId next = 256; next < 256 + count; ++next) {
    merges.push_back({known[rng() % known.size()], known[rng() % known.size()], next});
    known.push_back(next);
  }
  return merges;
}

std::string RandomWord(std::mt19937& rng, size_t length) {
  std::string word;
  for (size_t i = 0; i < length; ++i) word.push_back(static_cast<char>('a' + rng() % 3));
  return word;
}

TEST(BytePairEncoder, MergesTheLowestRankFirst) {
  const std::vector<Merge> merges = {{'b', 'c', 256}, {'a', 'b', 257}, {'a', 256, 258}};
  EXPECT_THAT(Encode(merges, ""), ElementsAre());
  EXPECT_THAT(Encode(merges, "a"), ElementsAre('a'));
  EXPECT_THAT(Encode(merges, "ab"), ElementsAre(257));
  EXPECT_THAT(Encode(merges, "abc"), ElementsAre(258));
  EXPECT_THAT(Encode(merges, "abab"), ElementsAre(257, 257));
}

TEST(BytePairEncoder, MergesTheLeftmostOfEquals) {
  EXPECT_THAT(Encode({{'a', 'a', 256}}, "aaa"), ElementsAre(256, 'a'));
  EXPECT_THAT(Encode({{'a', 'a', 256}, {256, 256, 257}}, "aaaaaaa"), ElementsAre(257, 256, 'a'));
}

TEST(BytePairEncoder, TheLaterOfTwoMergesOfOnePairCounts) {
  EXPECT_THAT(Encode({{'a', 'b', 256}, {'b', 'c', 257}, {'a', 'b', 258}}, "abc"),
              ElementsAre('a', 257));
}

TEST(BytePairEncoder, WithoutMergesBytesStay) {
  EXPECT_THAT(Encode({}, "xy"), ElementsAre('x', 'y'));
}

TEST(BytePairEncoder, AgreesWithTheDefinitionOnRandomMergesAndWords) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(::testing::Message() << "seed " << seed);
  std::mt19937 rng(seed);
  for (int round = 0; round < 30; ++round) {
    const std::vector<Merge> merges = RandomMerges(rng, 64);
    const BytePairEncoder encoder(Bytes(), merges);
    BytePairEncoder::Workspace workspace;
    for (int i = 0; i < 600; ++i) {
      const std::string word = RandomWord(rng, i % 10 == 0 ? rng() % 120 : rng() % 30);
      std::vector<TokenId> ids = {-7};
      encoder.Encode(word, workspace, ids);
      ASSERT_EQ(ids.front(), -7);
      ids.erase(ids.begin());
      ASSERT_EQ(ids, Merged(merges, word)) << word;
    }
  }
}

// Long words are merged in windows: whatever the merges, the windows must not show.
TEST(BytePairEncoder, AgreesWithTheDefinitionOnLongWords) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(::testing::Message() << "seed " << seed);
  std::mt19937 rng(seed);
  for (int round = 0; round < 24; ++round) {
    std::vector<Merge> merges = RandomMerges(rng, 20 + round * 8);
    // Shuffled, merges come before those that make their parts: no training gives such.
    if (round % 3 == 0) std::ranges::shuffle(merges, rng);
    const BytePairEncoder encoder(Bytes(), merges);
    BytePairEncoder::Workspace workspace;
    std::string word = RandomWord(rng, 2000 + rng() % 4000);
    if (round % 2 == 0) {  // a period, which may pass on a shift to the whole word
      const std::string period = RandomWord(rng, 1 + rng() % 7);
      for (size_t i = 0; i < word.size(); ++i) word[i] = period[i % period.size()];
    }
    std::vector<TokenId> ids;
    encoder.Encode(word, workspace, ids);
    ASSERT_EQ(ids, Merged(merges, word)) << "round " << round << ": " << word;
  }
}

// Each pair of bytes (c - 1, c) outranks the pairs before it, so the last byte of an ascending run
// decides how the first ones pair.
constexpr TokenId kRun = 251;  // no divisor of a window's size
std::vector<Merge> ChainFromTheEnd() {
  std::vector<Merge> merges;
  TokenId next = 256;
  for (TokenId c = kRun - 1; c > 0; --c) merges.push_back({c - 1, c, next++});
  merges.push_back({kRun - 1, 0, next});
  return merges;
}

TEST(BytePairEncoder, AgreesWithTheDefinitionWhereTheEndDecidesTheBeginning) {
  const std::vector<Merge> merges = ChainFromTheEnd();
  std::string word;
  for (int i = 0; i < 5000; ++i) word.push_back(static_cast<char>(i % kRun));
  for (size_t length = word.size(); length > word.size() - 10; --length) {
    EXPECT_EQ(Encode(merges, word.substr(0, length)), Merged(merges, word.substr(0, length)));
  }
}

// One token grows over the whole word, so each window would begin at the first byte again: one heap
// must take over.
TEST(BytePairEncoder, AWordWithoutABorderWithinTakesNearlyLinearTime) {
  constexpr TokenId kCount = 60000;
  std::vector<Merge> merges = {{'a', 'a', 256}};
  for (TokenId k = 0; k < kCount; ++k) merges.push_back({256 + k, 'b', 257 + k});
  const std::string word = "aa" + std::string(kCount, 'b');
  EXPECT_THAT(Encode(merges, word), ElementsAre(256 + kCount));
  EXPECT_THAT(Encode(merges, word + "aab"), ElementsAre(256 + kCount, 257));
}

TEST(BytePairEncoder, OneEndlessWordTakesNearlyLinearTime) {
  std::vector<Merge> merges = {{'a', 'a', 256}};
  for (TokenId id = 256; id < 262; ++id) merges.push_back({id, id, id + 1});
  const std::vector<TokenId> ids = Encode(merges, std::string(128 * 5000, 'a'));
  EXPECT_EQ(ids, std::vector<TokenId>(5000, 262));
}

}  // namespace
}  // namespace longhaul::text
