#include "common/text/pre_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/testing/status_matchers.h"

namespace longhaul::text {
namespace {

using ::testing::ElementsAreArray;

std::vector<std::string> Words(std::string_view text) {
  const auto pre_tokenizer = PreTokenizer::Create();
  EXPECT_OK(pre_tokenizer);
  const auto words = pre_tokenizer->Split(text);
  EXPECT_OK(words);
  return {words->begin(), words->end()};
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
