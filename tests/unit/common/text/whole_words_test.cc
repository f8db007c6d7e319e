#include "common/text/whole_words.h"

#include <gtest/gtest.h>

#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "common/text/word_key.h"

namespace longhaul::text {
namespace {

// Tokens of the single bytes, and more.
class WholeWordsTest : public ::testing::Test {
 protected:
  WholeWordsTest() {
    std::iota(byte_tokens_.begin(), byte_tokens_.end(), 0);
    for (int byte = 0; byte < 256; ++byte) token_bytes_.emplace_back(1, static_cast<char>(byte));
  }

  std::array<TokenId, 256> byte_tokens_;
  std::vector<std::string> token_bytes_;
};

TEST_F(WholeWordsTest, OnlyWhatItsBytesMergeToIsAWord) {
  token_bytes_.insert(token_bytes_.end(), {"ab", "bc", "abc", "", "<|end|>"});
  // "abc" is a token, but its bytes merge to "a", "bc".
  const std::vector<BytePairEncoder::Merge> merges = {
      {'b', 'c', 257}, {'a', 'b', 256}, {256, 'c', 258}};
  const BytePairEncoder encoder(byte_tokens_, merges);
  const WholeWords words(encoder, token_bytes_);
  const auto find = [&](std::string_view word) { return words.Find(word, WordKey(word)); };
  EXPECT_EQ(find("a"), 'a');
  EXPECT_EQ(find("ab"), 256);
  EXPECT_EQ(find("bc"), 257);
  for (const char* word : {"abc", "", "<|end|>", "abcd", "ba"}) {
    EXPECT_EQ(find(word), WholeWords::kNone) << word;
  }
}

TEST_F(WholeWordsTest, AgreesWithMergingOnRandomWords) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(::testing::Message() << "seed " << seed);
  std::mt19937 rng(seed);
  std::vector<BytePairEncoder::Merge> merges;
  std::vector<TokenId> known = {'a', 'b', 'c'};
  for (TokenId next = 256; next < 400; ++next) {
    const TokenId left = known[rng() % known.size()];
    const TokenId right = known[rng() % known.size()];
    if (token_bytes_[left].size() + token_bytes_[right].size() > 12) {
      token_bytes_.emplace_back();
      continue;
    }
    merges.push_back({left, right, next});
    token_bytes_.push_back(token_bytes_[left] + token_bytes_[right]);
    known.push_back(next);
  }
  const BytePairEncoder encoder(byte_tokens_, merges);
  const WholeWords words(encoder, token_bytes_);
  BytePairEncoder::Workspace workspace;
  size_t num_found = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string word;
    for (auto length = 1 + rng() % 8; length > 0; --length) {
      word.push_back(static_cast<char>('a' + rng() % 3));
    }
    std::vector<TokenId> ids;
    encoder.Encode(word, workspace, ids);
    const TokenId found = words.Find(word, WordKey(word));
    num_found += found != WholeWords::kNone;
    // Random merges may give one text two tokens: then the one that it merges to counts.
    ASSERT_EQ(found, ids.size() == 1 ? ids[0] : WholeWords::kNone) << word;
  }
  EXPECT_GT(num_found, 100u);
}

}  // namespace
}  // namespace longhaul::text
