#include "common/text/word_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "common/text/word_key.h"

namespace longhaul::text {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::IsEmpty;

// Uses up the words after which the cache begins to remember.
void WarmUp(WordCache& cache) {
  for (int i = 0; i < 1000; ++i) EXPECT_THAT(cache.Find(WordKey("x")), IsEmpty());
}

TEST(WordKey, ShortWordsHaveEqualKeysOnlyIfTheyAreEqual) {
  std::vector<std::string> words;
  for (size_t size = 0; size <= WordKey::kMaxBytes; ++size) {
    words.emplace_back(size, '\0');
    for (size_t place = 0; place < size; ++place) {
      for (const char c : {'\0', '\x01', 'a', '\x80', '\xFF'}) {
        words.push_back(std::string(size, 'b'));
        words.back()[place] = c;
      }
    }
  }
  for (const std::string& word : words) {
    const WordKey key(word);
    EXPECT_TRUE(key.holds_word());
    EXPECT_NE(key, WordKey());
    for (const std::string& other : words) {
      ASSERT_EQ(WordKey(other) == key, other == word) << word.size() << " " << other.size();
    }
  }
}

TEST(WordKey, LongWordsAreNotHeldAndDifferFromShortOnes) {
  const std::string text(400, 'x');
  std::set<uint64_t> hashes;
  for (size_t size = WordKey::kMaxBytes + 1; size <= text.size(); ++size) {
    const WordKey key(std::string_view(text).substr(0, size));
    EXPECT_FALSE(key.holds_word()) << size;
    EXPECT_NE(key, WordKey());
    hashes.insert(key.hash());
    for (const size_t place : {size_t{0}, size / 2, size - 1}) {
      std::string other = text.substr(0, size);
      other[place] = 'y';
      EXPECT_NE(WordKey(other), key) << size << " " << place;
    }
  }
  EXPECT_EQ(hashes.size(), text.size() - WordKey::kMaxBytes);
}

TEST(WordCache, RemembersAWordsTokens) {
  WordCache cache;
  WarmUp(cache);
  const std::vector<TokenId> tokens = {1, 2};
  cache.Insert(WordKey("word"), tokens);
  EXPECT_THAT(cache.Find(WordKey("word")), ElementsAre(1, 2));
  EXPECT_THAT(cache.Find(WordKey("wore")), IsEmpty());
}

TEST(WordCache, LeavesOutWhatIsTooLong) {
  WordCache cache;
  WarmUp(cache);
  const std::vector<TokenId> most(WordCache::kMaxTokens, 3);
  cache.Insert(WordKey("most"), most);
  EXPECT_THAT(cache.Find(WordKey("most")), ElementsAreArray(most));
  const std::vector<TokenId> too_many(WordCache::kMaxTokens + 1, 3);
  cache.Insert(WordKey("many"), too_many);
  EXPECT_THAT(cache.Find(WordKey("many")), IsEmpty());
  const WordKey too_long(std::string(WordKey::kMaxBytes + 1, 'x'));
  cache.Insert(too_long, most);
  EXPECT_THAT(cache.Find(too_long), IsEmpty());
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
    const auto found = cache.Find(WordKey(word));
    if (!found.empty()) {
      ++num_found;
      ASSERT_THAT(found, ElementsAreArray(inserted[word])) << word;
    } else {
      std::vector<TokenId> tokens(1 + rng() % WordCache::kMaxTokens);
      for (TokenId& token : tokens) token = static_cast<TokenId>(rng() % 1000);
      cache.Insert(WordKey(word), tokens);
      inserted[word] = tokens;
    }
  }
  EXPECT_GT(num_found, 1000u);
}

}  // namespace
}  // namespace longhaul::text
