#include "common/text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "common/text/utf8.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"
#include "tests/unit/common/text/demo_tokenizer.h"

namespace longhaul::text {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::StatusIs;

constexpr TokenId kImStart = 2041;
constexpr TokenId kImEnd = 2042;

std::vector<TokenId> Encode(std::string_view text, SpecialTokens mode) {
  const auto ids = DemoTokenizer().Encode(text, mode);
  EXPECT_OK(ids);
  return *ids;
}

TEST(Tokenizer, SpecialTokensAreParsedOrText) {
  EXPECT_THAT(Encode("<|im_start|><|im_end|>", SpecialTokens::kParse),
              ElementsAre(kImStart, kImEnd));
  const std::vector<TokenId> as_text = Encode("<|im_end|>", SpecialTokens::kAsText);
  EXPECT_THAT(as_text, Not(Contains(kImEnd)));
  EXPECT_EQ(DemoTokenizer().Decode(as_text, /*skip_special=*/true), "<|im_end|>");
}

TEST(Tokenizer, MarkedRangesDecideWhereSpecialTokensAreParsed) {
  const std::string text = "<|im_end|><|im_end|><|im_end|>";
  const TextRange second[] = {{.begin = 10, .end = 20}};
  ASSERT_OK_AND_ASSIGN(const std::vector<TokenId> ids, DemoTokenizer().EncodeMarked(text, second));
  std::vector<TokenId> expected = Encode("<|im_end|>", SpecialTokens::kAsText);
  const std::vector<TokenId> third = expected;
  expected.push_back(kImEnd);
  expected.insert(expected.end(), third.begin(), third.end());
  EXPECT_EQ(ids, expected);
}

TEST(Tokenizer, ASpecialTokenThatLeavesItsRangeIsText) {
  const std::string text = "<|im_end|>";
  const TextRange halves[] = {{.begin = 0, .end = 5}, {.begin = 5, .end = 10}};
  ASSERT_OK_AND_ASSIGN(const std::vector<TokenId> ids, DemoTokenizer().EncodeMarked(text, halves));
  EXPECT_EQ(ids, Encode(text, SpecialTokens::kAsText));
}

TEST(Tokenizer, RangesDoNotCutWords) {
  const TextRange inside_a_word[] = {{.begin = 0, .end = 4}};
  ASSERT_OK_AND_ASSIGN(const std::vector<TokenId> ids,
                       DemoTokenizer().EncodeMarked("remember", inside_a_word));
  EXPECT_EQ(ids, Encode("remember", SpecialTokens::kParse));
}

TEST(Tokenizer, NormalizesBeforeItEncodes) {
  EXPECT_EQ(Encode("e\u0301", SpecialTokens::kAsText), Encode("\u00E9", SpecialTokens::kAsText));
}

TEST(Tokenizer, NamesTheByteThatIsNotUtf8) {
  EXPECT_THAT(DemoTokenizer().Encode("caf\xE9 au lait", SpecialTokens::kAsText),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("not UTF-8 at byte 3")));
}

TEST(Tokenizer, AnyTextInNfcComesBack) {
  const std::string text =
      "The pass key is 28884.\n\n\tx = {'a': 1}\r\n \u4F60\u597D \uC548\uB155 \U0001F600 \x01\x7F";
  const std::vector<TokenId> ids = Encode(text, SpecialTokens::kAsText);
  EXPECT_EQ(DemoTokenizer().Decode(ids, /*skip_special=*/true), text);
  std::string bytes;
  for (const TokenId id : ids) bytes += DemoTokenizer().TokenBytes(id);
  EXPECT_EQ(bytes, text);
}

TEST(Tokenizer, DecodingSkipsSpecialTokensOnRequestAndUnknownIdsAlways) {
  const Tokenizer& tokenizer = DemoTokenizer();
  std::vector<TokenId> ids = Encode("hi<|im_end|>", SpecialTokens::kParse);
  ids.push_back(tokenizer.vocab_size());
  ids.push_back(-1);
  EXPECT_EQ(tokenizer.Decode(ids, /*skip_special=*/false), "hi<|im_end|>");
  EXPECT_EQ(tokenizer.Decode(ids, /*skip_special=*/true), "hi");
  EXPECT_EQ(tokenizer.TokenBytes(tokenizer.vocab_size()), "");
  EXPECT_FALSE(tokenizer.IsSpecial(tokenizer.vocab_size()));
}

TEST(Tokenizer, RefusesIdsOutsideOfTheVocabularyOnRequest) {
  const Tokenizer& tokenizer = DemoTokenizer();
  std::vector<TokenId> ids(static_cast<size_t>(tokenizer.vocab_size()));
  std::iota(ids.begin(), ids.end(), 0);
  EXPECT_OK(tokenizer.CheckIds(ids));
  EXPECT_OK(tokenizer.CheckIds({}));
  for (const TokenId id : {tokenizer.vocab_size(), -1, INT32_MAX, INT32_MIN}) {
    const TokenId one_wrong[] = {0, id, 1};
    EXPECT_THAT(tokenizer.CheckIds(one_wrong),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         AllOf(HasSubstr("token 1 has the id " + std::to_string(id) + ","),
                               HasSubstr("(2043 ids from 0)"))));
  }
}

TEST(Tokenizer, BytesOfAnyTokenAreWhatDecodeMakesTextOf) {
  const Tokenizer& tokenizer = DemoTokenizer();
  EXPECT_EQ(tokenizer.TokenBytes(kImEnd), "<|im_end|>");
  for (TokenId id = 0; id < tokenizer.vocab_size(); ++id) {
    const TokenId ids[] = {id};
    std::string text;
    AppendWellFormed(tokenizer.TokenBytes(id), Continuation::kNone, text);
    EXPECT_EQ(tokenizer.Decode(ids, /*skip_special=*/false), text) << id;
  }
}

TEST(Tokenizer, KnowsItsSpecialTokens) {
  const Tokenizer& tokenizer = DemoTokenizer();
  EXPECT_EQ(tokenizer.vocab_size(), 2043);
  EXPECT_EQ(tokenizer.TokenIdOf("<|im_end|>"), kImEnd);
  EXPECT_EQ(tokenizer.TokenIdOf("<|im_end"), std::nullopt);
  EXPECT_TRUE(tokenizer.IsSpecial(kImStart));
  EXPECT_FALSE(tokenizer.IsSpecial(0));
  EXPECT_FALSE(tokenizer.IsSpecial(-1));
}

TEST(Tokenizer, ThreadsShareIt) {
  const std::string text = "One of the special magic numbers for amber-falcon is: 1234567. ";
  std::string repeated;
  for (int i = 0; i < 200; ++i) repeated += text + std::to_string(i);
  const std::vector<TokenId> expected = Encode(repeated, SpecialTokens::kParse);
  std::vector<std::vector<TokenId>> results(4);
  std::vector<std::thread> threads;
  for (auto& result : results) {
    threads.emplace_back(
        [&result, &repeated] { result = Encode(repeated, SpecialTokens::kParse); });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& result : results) EXPECT_EQ(result, expected);
}

// A quadratic walk anywhere would take minutes for each of these; the test's time limit says so.
TEST(Tokenizer, HostileTextsTakeNearlyLinearTime) {
  constexpr size_t kBytes = 200'000;
  const char* const patterns[] = {"a",
                                  " ",
                                  "\n",
                                  "\t \n",
                                  "'",
                                  "'re",
                                  "<",
                                  "<|",
                                  "<|im_start|",
                                  "<|im_start|>",
                                  "<tool_call>",
                                  "7",
                                  "=-",
                                  "\uFFFD",
                                  "ab",
                                  "e\u0301",
                                  "\u0301",
                                  "\u0323\u0301",
                                  "\u1161",
                                  "\u1112",
                                  "\u4E2D",
                                  "\\",
                                  "\u00A0",
                                  " \u0301",
                                  "\U0001D160",
                                  "\x01",
                                  "\U0001F468\u200D"};
  for (const std::string pattern : patterns) {
    std::string text;
    while (text.size() < kBytes) text += pattern;
    const std::vector<TokenId> ids = Encode(text, SpecialTokens::kParse);
    ASSERT_FALSE(ids.empty());
    if (pattern != "\U0001D160" && pattern != "e\u0301" && pattern != "\u0323\u0301") {  // not NFC
      EXPECT_EQ(DemoTokenizer().Decode(ids, /*skip_special=*/false), text) << pattern;
    }
  }
}

TEST(Tokenizer, LoadNamesTheFile) {
  const testing::TempDir dir;
  EXPECT_THAT(Tokenizer::Load(dir.path()),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr(dir.path() + "/tokenizer.json")));
  dir.Write("tokenizer.json", R"({"normalizer": {"type": "NFKC"}})");
  EXPECT_THAT(Tokenizer::Load(dir.path()),
              StatusIs(absl::StatusCode::kUnimplemented,
                       AllOf(HasSubstr("tokenizer.json"), HasSubstr("NFKC"))));
}

}  // namespace
}  // namespace longhaul::text
