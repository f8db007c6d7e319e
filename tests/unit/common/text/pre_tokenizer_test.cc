#define PCRE2_CODE_UNIT_WIDTH 8
#include "common/text/pre_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pcre2.h>

#include <random>
#include <string>
#include <vector>

#include "tests/testing/status_matchers.h"

namespace longhaul::text {
namespace {

using ::testing::ElementsAreArray;

std::vector<std::string> Words(std::string_view text) {
  static const auto pre_tokenizer = PreTokenizer::Create();
  EXPECT_OK(pre_tokenizer);
  std::vector<std::string> words;
  EXPECT_OK(pre_tokenizer->Split(text, [&](std::string_view word) { words.emplace_back(word); }));
  return words;
}

TEST(PreTokenizer, SplitsAsThePatternSays) {
  struct Case {
    std::string text;
    std::vector<std::string> words;
  };
  const Case cases[] = {
      {"", {}},
      {"Hello, world!", {"Hello", ",", " world", "!"}},
      {"it's WE'LL x'S", {"it", "'s", " WE", "'LL", " x", "'S"}},
      {"'\u017Fa", {"'\u017F", "a"}},  // long s folds to s
      {"a1234", {"a", "1", "2", "3", "4"}},
      {"\u00BD\u2167\u0663", {"\u00BD", "\u2167", "\u0663"}},
      {"a   b", {"a", "  ", " b"}},
      {"a   1", {"a", "  ", " ", "1"}},
      {"a   ", {"a", "   "}},
      {"a \n\n  b", {"a", " \n\n", " ", " b"}},
      {"a\r\n\tb", {"a", "\r\n", "\tb"}},
      {"!?\n\nx", {"!?\n\n", "x"}},
      {" (x)", {" (", "x", ")"}},
      {"\u4F60\u597D\uFF0C\u4E16", {"\u4F60\u597D", "\uFF0C\u4E16"}},
      {"x\u00A0\u3000y", {"x", "\u00A0", "\u3000y"}},
      {"x \u180Ey", {"x", " \u180E", "y"}},                // no white space since Unicode 6.3
      {"\U00031350\U0002EBF0", {"\U00031350\U0002EBF0"}},  // letters since Unicode 15
      {"e\u0301x", {"e", "\u0301x"}},                      // a mark is no letter
  };
  for (const Case& c : cases) EXPECT_THAT(Words(c.text), ElementsAreArray(c.words)) << c.text;
}

// What PCRE2 itself makes of the published pattern; right for characters that Unicode had in
// version 14, but for U+180E.
std::vector<std::string> PublishedWords(std::string_view text) {
  static pcre2_code* const code = [] {
    int error = 0;
    PCRE2_SIZE offset = 0;
    return pcre2_compile(reinterpret_cast<PCRE2_SPTR>(kQwenSplitPattern.data()),
                         kQwenSplitPattern.size(), PCRE2_UTF | PCRE2_UCP, &error, &offset, nullptr);
  }();
  pcre2_match_data* const data = pcre2_match_data_create_from_pattern(code, nullptr);
  std::vector<std::string> words;
  for (size_t offset = 0; offset < text.size();) {
    EXPECT_GT(pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), offset, 0,
                          data, nullptr),
              0);
    const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(data);
    EXPECT_EQ(bounds[0], offset);
    words.emplace_back(text.substr(offset, bounds[1] - offset));
    offset = bounds[1];
  }
  pcre2_match_data_free(data);
  return words;
}

TEST(PreTokenizer, AgreesWithThePublishedPatternOnEveryShortTextOfItsKinds) {
  // One character of each kind that the pattern or the code tells apart.
  const std::vector<std::string> kinds = {"a", "S", "7",    " ",      "\t",     "\n",     "\r",
                                          "'", "!", "\x01", "\u00E9", "\u00A0", "\u0301", "\u00BD"};
  constexpr size_t kLength = 5;
  size_t num_texts = 1;
  for (size_t i = 0; i < kLength; ++i) num_texts *= kinds.size();
  const auto pre_tokenizer = PreTokenizer::Create();
  ASSERT_OK(pre_tokenizer);
  // A tenth of all, another tenth each time the test runs.
  const uint32_t first = std::random_device()() % 10;
  for (size_t i = first; i < num_texts; i += 10) {
    std::string text;
    for (size_t k = 0, rest = i; k < kLength; ++k, rest /= kinds.size()) {
      text += kinds[rest % kinds.size()];
    }
    std::vector<std::string> words;
    ASSERT_OK(pre_tokenizer->Split(text, [&](std::string_view word) { words.emplace_back(word); }));
    ASSERT_THAT(words, ElementsAreArray(PublishedWords(text))) << text;
  }
}

TEST(PreTokenizer, AgreesWithThePublishedPatternOnRandomTexts) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(::testing::Message() << "seed " << seed);
  std::mt19937 rng(seed);
  const std::vector<std::string> parts = {
      "it's",   "'LL",    "x",      "word",   " ",         "  ",   "\n",   "\r\n",
      "\t",     "12",     "(",      "...",    "\x0B",      "\x1F", "\x7F", "\u00E9t\u00E9",
      "\u4F60", "\u3000", "\u2028", "\u0301", "\U0001F600"};
  for (int i = 0; i < 5000; ++i) {
    std::string text;
    for (auto length = rng() % 20; length > 0; --length) text += parts[rng() % parts.size()];
    ASSERT_THAT(Words(text), ElementsAreArray(PublishedWords(text))) << text;
  }
}

// A quadratic walk would take hours here; the test's time limit says so.
TEST(PreTokenizer, EndlessRunsTakeLinearTime) {
  constexpr size_t kBytes = 2'000'000;
  const std::string spaces(kBytes, ' ');
  EXPECT_EQ(Words(spaces).size(), 1u);
  EXPECT_EQ(Words(spaces + "x").size(), 2u);
  EXPECT_EQ(Words("\n" + spaces + "x").size(), 3u);
  EXPECT_EQ(Words(spaces + "\n").size(), 1u);
  EXPECT_EQ(Words(std::string(kBytes, 'a')).size(), 1u);
  EXPECT_EQ(Words(std::string(kBytes, '\n')).size(), 1u);
  EXPECT_EQ(Words(std::string(kBytes, '!')).size(), 1u);
  EXPECT_EQ(Words(std::string(kBytes, '\'')).size(), 1u);
  EXPECT_EQ(Words(std::string(kBytes, '7')).size(), kBytes);
}

}  // namespace
}  // namespace longhaul::text
