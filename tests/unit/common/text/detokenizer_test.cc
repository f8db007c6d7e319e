#include "common/text/detokenizer.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "common/text/utf8.h"
#include "tests/testing/paths.h"
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

// Ids of every sort, most of whose bytes are no UTF-8: single bytes, tokens that begin or end
// inside a character, special ones, ids that are none.
std::vector<TokenId> RandomIds(const Tokenizer& tokenizer, std::mt19937& rng) {
  static std::map<const Tokenizer*, std::vector<TokenId>> broken_by_tokenizer;
  std::vector<TokenId>& broken = broken_by_tokenizer[&tokenizer];
  const auto size = static_cast<uint32_t>(tokenizer.vocab_size());
  if (broken.empty()) {
    for (TokenId id = 0; id < tokenizer.vocab_size(); ++id) {
      if (FindInvalidUtf8(tokenizer.TokenBytes(id)) != std::string::npos) broken.push_back(id);
    }
  }
  EXPECT_GE(broken.size(), 128u);
  std::vector<TokenId> ids;
  for (auto i = rng() % 20; i > 0; --i) {
    switch (rng() % 8) {
      case 0:
        ids.push_back(static_cast<TokenId>(rng() % size));
        break;
      case 1:
        ids.push_back(static_cast<TokenId>(rng() % 256));
        break;
      case 2:
        ids.push_back(rng() % 4 == 0 ? static_cast<TokenId>(size + rng() % 3)
                                     : static_cast<TokenId>(size - 1 - rng() % 3));
        break;
      default:
        ids.push_back(broken[rng() % broken.size()]);
    }
  }
  return ids;
}

// Pushes the ids one by one. What came out at any time is what is certain by then: nothing is held
// back but the beginning of a character.
void ExpectWhatDecodeGives(const Tokenizer& tokenizer, const std::vector<TokenId>& ids) {
  IncrementalDetokenizer detokenizer(tokenizer);
  std::string text;
  std::string bytes;
  for (const TokenId id : ids) {
    const std::string piece = detokenizer.Push(id);
    ASSERT_EQ(FindInvalidUtf8(piece), std::string::npos);
    text += piece;
    if (!tokenizer.IsSpecial(id)) bytes += tokenizer.TokenBytes(id);
    std::string certain;
    const size_t num_certain = AppendWellFormed(bytes, Continuation::kMayFollow, certain);
    ASSERT_EQ(text, certain);
    ASSERT_LE(bytes.size() - num_certain, 3u);
  }
  text += detokenizer.Flush();
  ASSERT_EQ(text, tokenizer.Decode(ids, /*skip_special=*/true));
}

TEST(IncrementalDetokenizer, GivesInAllWhatDecodeGives) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(::testing::Message() << "seed " << seed);
  std::mt19937 rng(seed);
  for (int round = 0; round < 20000; ++round) {
    const std::vector<TokenId> ids = RandomIds(DemoTokenizer(), rng);
    SCOPED_TRACE(::testing::PrintToString(ids));
    ExpectWhatDecodeGives(DemoTokenizer(), ids);
    if (HasFatalFailure()) return;
  }
}

TEST(IncrementalDetokenizer, GivesInAllWhatDecodeGivesWithARealVocabulary) {
  const std::string directory = testing::SharedPath("models/qwen2.5-tokenizer");
  if (directory.empty()) {
    GTEST_SKIP() << "skipped: LONGHAUL_SHARED has no models/qwen2.5-tokenizer";
  }
  ASSERT_OK_AND_ASSIGN(const auto tokenizer, Tokenizer::Load(directory));
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(::testing::Message() << "seed " << seed);
  std::mt19937 rng(seed);
  for (int round = 0; round < 20000; ++round) {
    const std::vector<TokenId> ids = RandomIds(*tokenizer, rng);
    SCOPED_TRACE(::testing::PrintToString(ids));
    ExpectWhatDecodeGives(*tokenizer, ids);
    if (HasFatalFailure()) return;
  }
}

// Any text comes back, however its characters are cut into tokens.
TEST(IncrementalDetokenizer, BytesOfAnyTextComeBackAsTheText) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(::testing::Message() << "seed " << seed);
  std::mt19937 rng(seed);
  std::array<TokenId, 256> byte_tokens{};
  for (TokenId id = 0; id < DemoTokenizer().vocab_size(); ++id) {
    const std::string_view bytes = DemoTokenizer().TokenBytes(id);
    if (bytes.size() == 1) byte_tokens[static_cast<uint8_t>(bytes[0])] = id;
  }
  for (int round = 0; round < 300; ++round) {
    std::string text;
    for (int i = 0; i < 50; ++i) {
      const char32_t last = std::array<char32_t, 4>{0x7F, 0x7FF, 0xFFFF, 0x10FFFF}[rng() % 4];
      const auto c = static_cast<char32_t>(rng() % (last + 1));
      if (c < 0xD800 || c >= 0xE000) AppendCodePoint(c, text);
    }
    IncrementalDetokenizer detokenizer(DemoTokenizer());
    std::string back;
    for (const char byte : text) back += detokenizer.Push(byte_tokens[static_cast<uint8_t>(byte)]);
    ASSERT_EQ(back, text);
    ASSERT_EQ(detokenizer.Flush(), "");
  }
}

}  // namespace
}  // namespace longhaul::text
