#include "common/text/utf8.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

namespace longhaul::text {
namespace {

std::string Replaced(std::string_view bytes) {
  std::string out;
  EXPECT_EQ(AppendWellFormed(bytes, Continuation::kNone, out), bytes.size());
  return out;
}

// All code points but the surrogates, each written by hand from the definition of UTF-8.
std::string Spelled(char32_t c) {
  const auto byte = [](char32_t value) { return static_cast<char>(value); };
  if (c < 0x80) return {byte(c)};
  if (c < 0x800) return {byte(0xC0 + c / 64), byte(0x80 + c % 64)};
  if (c < 0x10000) {
    return {byte(0xE0 + c / 4096), byte(0x80 + c / 64 % 64), byte(0x80 + c % 64)};
  }
  return {byte(0xF0 + c / 262144), byte(0x80 + c / 4096 % 64), byte(0x80 + c / 64 % 64),
          byte(0x80 + c % 64)};
}

TEST(Utf8, EveryCodePointIsValidAndReadBack) {
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    const std::string bytes = Spelled(c);
    ASSERT_EQ(FindInvalidUtf8(bytes), std::string::npos) << "code point " << static_cast<int>(c);
    const CodePoint read = CodePointAt(bytes, 0);
    ASSERT_EQ(read.value, c);
    ASSERT_EQ(read.length, bytes.size());
    std::string written;
    AppendCodePoint(c, written);
    ASSERT_EQ(written, bytes);
  }
}

TEST(Utf8, FindsTheFirstInvalidByte) {
  struct Case {
    const char* name;
    std::string bytes;
    size_t offset;
  };
  const Case cases[] = {
      {"continuation byte alone", "abc\x80", 3},
      {"after a long ASCII run", std::string(1000, 'a') + "\xFF", 1000},
      {"cut at the end", "\xC3\xA9\xE4\xBD", 2},
      {"cut in the middle", "\xE4\xBDxyz", 0},
      {"overlong slash", "\xC0\xAF", 0},
      {"overlong three bytes", "a\xE0\x9F\xBF", 1},
      {"surrogate", "ab\xED\xA0\x80", 2},
      {"above U+10FFFF", "\xF4\x90\x80\x80", 0},
      {"lead byte F5", "\xF5\x80\x80\x80", 0},
  };
  for (const Case& c : cases) EXPECT_EQ(FindInvalidUtf8(c.bytes), c.offset) << c.name;
}

TEST(Utf8, ReplacesEachMaximalIllFormedPartOnce) {
  const std::string r = "\xEF\xBF\xBD";
  EXPECT_EQ(Replaced("a\xF0\x9F\x98z"), "a" + r + "z");  // three bytes of four
  EXPECT_EQ(Replaced("\xF0\x9F\x98"), r);                // the same at the end
  EXPECT_EQ(Replaced("\xE0\x80\x80"), r + r + r);        // no byte continues E0 80
  EXPECT_EQ(Replaced("\xED\xA0\x80"), r + r + r);        // a surrogate
  EXPECT_EQ(Replaced("\xC3\xC3\xA9"), r + "\xC3\xA9");   // a lead byte, then a character
  EXPECT_EQ(Replaced("\x80\xFF-\xC0\xAF"), r + r + "-" + r + r);
}

TEST(Utf8, PiecesInAnyCutGiveTheTextOfTheWhole) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(::testing::Message() << "seed " << seed);
  std::mt19937 rng(seed);
  const std::string alphabet = "a\x80\xBF\xC3\xA9\xE4\xBD\xA0\xF0\x9F\x98\x80\xED\xFF";
  for (int round = 0; round < 2000; ++round) {
    std::string bytes;
    for (auto i = rng() % 20; i > 0; --i) bytes.push_back(alphabet[rng() % alphabet.size()]);
    std::string held;
    std::string out;
    for (size_t offset = 0; offset < bytes.size();) {
      const size_t length = 1 + rng() % 4;
      held.append(bytes, offset, length);
      offset += length;
      held.erase(0, AppendWellFormed(held, Continuation::kMayFollow, out));
      ASSERT_LE(held.size(), 3u);
      ASSERT_EQ(FindInvalidUtf8(out), std::string::npos);
    }
    out += Replaced(held);
    ASSERT_EQ(out, Replaced(bytes));
  }
}

TEST(Utf8, FindsTheFirstWrongByte) {
  struct Case {
    std::string text;
    size_t offset;
  };
  for (const Case& item : {Case{"", std::string::npos}, Case{"é€😀\U0010FFFF", std::string::npos},
                           Case{std::string(1, '\0'), std::string::npos}, Case{"\x80", 0},
                           Case{"a\xC0\x80", 1},         // longer than needed
                           Case{"ab\xED\xA0\x80", 2},    // a surrogate
                           Case{"\xF4\x90\x80\x80", 0},  // above U+10FFFF
                           Case{"é\xE2\x82", 2},         // cut
                           Case{"\xEF\xBF\xBE", std::string::npos}}) {
    EXPECT_EQ(FindInvalidUtf8(item.text), item.offset) << ::testing::PrintToString(item.text);
  }
}

}  // namespace
}  // namespace longhaul::text
