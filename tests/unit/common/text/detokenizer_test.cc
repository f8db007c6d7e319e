#include "common/text/detokenizer.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "common/text/utf8.h"
#include "tests/testing/status_matchers.h"
#include "tests/unit/common/text/demo_tokenizer.h"

namespace longhaul::text {
namespace {

// The tokens of single bytes.
std::vector<TokenId> ByteTokens(const std::string& bytes) {
  std::vector<TokenId> ids;
  for (const char byte : bytes) {
    for (TokenId id = 0; id < DemoTokenizer().vocab_size(); ++id) {
      if (DemoTokenizer().TokenBytes(id) == std::string_view(&byte, 1)) ids.push_back(id);
    }
  }
  EXPECT_EQ(ids.size(), bytes.size());
  return ids;
}

TEST(IncrementalDetokenizer, HoldsACharacterBackUntilItIsWhole) {
  IncrementalDetokenizer detokenizer(DemoTokenizer());
  const std::vector<TokenId> ids = ByteTokens("\xF0\x9F\x98\x80!");
  EXPECT_EQ(detokenizer.Push(ids[0]), "");
  EXPECT_EQ(detokenizer.Push(ids[1]), "");
  EXPECT_EQ(detokenizer.Push(ids[2]), "");
  EXPECT_EQ(detokenizer.Push(ids[3]), "\U0001F600");
  EXPECT_EQ(detokenizer.Push(ids[4]), "!");
  EXPECT_EQ(detokenizer.Flush(), "");
}

TEST(IncrementalDetokenizer, InvalidBytesAreReplacedAsSoonAsTheyAreKnown) {
  IncrementalDetokenizer detokenizer(DemoTokenizer());
  const std::vector<TokenId> ids = ByteTokens("\xF0\x9F!\xE4");
  EXPECT_EQ(detokenizer.Push(ids[0]), "");
  EXPECT_EQ(detokenizer.Push(ids[1]), "");
  EXPECT_EQ(detokenizer.Push(ids[2]), "\uFFFD!");
  EXPECT_EQ(detokenizer.Push(ids[3]), "");
  EXPECT_EQ(detokenizer.Flush(), "\uFFFD");
  EXPECT_EQ(detokenizer.Flush(), "");
}

TEST(IncrementalDetokenizer, SpecialTokensAndUnknownIdsDoNotCutACharacter) {
  IncrementalDetokenizer detokenizer(DemoTokenizer());
  const std::vector<TokenId> ids = ByteTokens("\xC3\xA9");
  EXPECT_EQ(detokenizer.Push(ids[0]), "");
  EXPECT_EQ(detokenizer.Push(*DemoTokenizer().TokenIdOf("<|im_end|>")), "");
  EXPECT_EQ(detokenizer.Push(DemoTokenizer().vocab_size() + 5), "");
  EXPECT_EQ(detokenizer.Push(ids[1]), "\u00E9");
}

TEST(IncrementalDetokenizer, GivesInAllWhatDecodeGives) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(::testing::Message() << "seed " << seed);
  std::mt19937 rng(seed);
  for (int round = 0; round < 3000; ++round) {
    // Low ids are single bytes, most of them no ASCII: ill-formed text is the rule here.
    const auto top = static_cast<uint32_t>(round % 2 == 0 ? 256 : DemoTokenizer().vocab_size());
    std::vector<TokenId> ids;
    for (auto i = rng() % 20; i > 0; --i) ids.push_back(static_cast<TokenId>(rng() % top));
    IncrementalDetokenizer detokenizer(DemoTokenizer());
    std::string text;
    for (const TokenId id : ids) {
      const std::string piece = detokenizer.Push(id);
      ASSERT_EQ(FindInvalidUtf8(piece), std::string::npos);
      text += piece;
    }
    text += detokenizer.Flush();
    ASSERT_EQ(text, DemoTokenizer().Decode(ids, /*skip_special=*/true));
  }
}

}  // namespace
}  // namespace longhaul::text
