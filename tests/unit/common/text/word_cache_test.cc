#include "common/text/word_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <string>
#include <vector>

#include "common/text/word_hash.h"

namespace longhaul::text {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::IsEmpty;

// Uses up the words after which the cache begins to remember.
void WarmUp(WordCache& cache) {
  for (int i = 0; i < 1000; ++i) EXPECT_THAT(cache.Find("x", HashWord("x")), IsEmpty());
}

TEST(WordCache, RemembersAWordsTokens) {
  WordCache cache;
  WarmUp(cache);
  const std::vector<TokenId> tokens = {1, 2};
  cache.Insert("word", HashWord("word"), tokens);
  EXPECT_THAT(cache.Find("word", HashWord("word")), ElementsAre(1, 2));
  EXPECT_THAT(cache.Find("wore", HashWord("wore")), IsEmpty());
}

// All words share one place here: only the bytes can tell them apart.
TEST(WordCache, NeverTakesOneWordForAnother) {
  constexpr uint64_t kSameHash = 12345;
  WordCache cache;
  WarmUp(cache);
  std::vector<std::string> words;
  for (size_t size = 1; size <= WordCache::kMaxBytes; ++size) {
    for (size_t place = 0; place < size; ++place) {
      for (const char c : {'\0', 'a', '\xFF'}) {
        words.push_back(std::string(size, 'b'));
        words.back()[place] = c;
      }
    }
    words.emplace_back(size, '\0');
  }
  for (const std::string& word : words) {
    const std::vector<TokenId> tokens = {7};
    cache.Insert(word, kSameHash, tokens);
    for (const std::string& other : words) {
      EXPECT_EQ(cache.Find(other, kSameHash).empty(), other != word);
    }
  }
}

TEST(WordCache, LeavesOutWhatIsTooLong) {
  WordCache cache;
  WarmUp(cache);
  const std::vector<TokenId> most(WordCache::kMaxTokens, 3);
  cache.Insert("most", HashWord("most"), most);
  EXPECT_THAT(cache.Find("most", HashWord("most")), ElementsAreArray(most));
  const std::vector<TokenId> too_many(WordCache::kMaxTokens + 1, 3);
  cache.Insert("many", HashWord("many"), too_many);
  EXPECT_THAT(cache.Find("many", HashWord("many")), IsEmpty());
  const std::string too_long(WordCache::kMaxBytes + 1, 'x');
  cache.Insert(too_long, HashWord(too_long), most);
  EXPECT_THAT(cache.Find(too_long, HashWord(too_long)), IsEmpty());
}

TEST(WordCache, WhatItFindsIsWhatWasInsertedLast) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(::testing::Message() << "seed " << seed);
  std::mt19937 rng(seed);
  WordCache cache;
  std::map<std::string, std::vector<TokenId>> inserted;
  size_t num_found = 0;
  for (int i = 0; i < 100000; ++i) {
    const std::string word = std::to_string(rng() % 40000);
    const auto found = cache.Find(word, HashWord(word));
    if (!found.empty()) {
      ++num_found;
      ASSERT_THAT(found, ElementsAreArray(inserted[word])) << word;
    } else {
      std::vector<TokenId> tokens(1 + rng() % WordCache::kMaxTokens);
      for (TokenId& token : tokens) token = static_cast<TokenId>(rng() % 1000);
      cache.Insert(word, HashWord(word), tokens);
      inserted[word] = tokens;
    }
  }
  EXPECT_GT(num_found, 1000u);
}

}  // namespace
}  // namespace longhaul::text
