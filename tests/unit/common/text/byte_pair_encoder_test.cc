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
  while (true) {
    size_t best = merges.size();
    size_t at = 0;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      const auto it = ranks.find({ids[i], ids[i + 1]});
      if (it != ranks.end() && it->second < best) {
        best = it->second;
        at = i;
      }
    }
    if (best == merges.size()) return ids;
    ids[at] = merges[best].result;
    ids.erase(ids.begin() + static_cast<ptrdiff_t>(at) + 1);
  }
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
    // Merges over three letters, each of tokens that exist by then.
    std::vector<TokenId> known = {'a', 'b', 'c'};
    std::vector<Merge> merges;
    for (TokenId next = 256; next < 320; ++next) {
      merges.push_back({known[rng() % known.size()], known[rng() % known.size()], next});
      known.push_back(next);
    }
    const BytePairEncoder encoder(Bytes(), merges);
    BytePairEncoder::Workspace workspace;  // shared by all words, so that the cache takes part
    for (int i = 0; i < 600; ++i) {
      std::string word;
      const auto length = i % 10 == 0 ? rng() % 60 : rng() % 6;
      for (size_t k = 0; k < length; ++k) word.push_back(static_cast<char>('a' + rng() % 3));
      std::vector<TokenId> ids = {-7};
      encoder.Encode(word, workspace, ids);
      ASSERT_EQ(ids.front(), -7);
      ids.erase(ids.begin());
      ASSERT_EQ(ids, Merged(merges, word)) << word;
    }
  }
}

TEST(BytePairEncoder, OneEndlessWordTakesNearlyLinearTime) {
  std::vector<Merge> merges = {{'a', 'a', 256}};
  for (TokenId id = 256; id < 262; ++id) merges.push_back({id, id, id + 1});
  const std::vector<TokenId> ids = Encode(merges, std::string(128 * 5000, 'a'));
  EXPECT_EQ(ids, std::vector<TokenId>(5000, 262));
}

}  // namespace
}  // namespace longhaul::text
