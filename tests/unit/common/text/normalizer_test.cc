#include "common/text/normalizer.h"

#include <gtest/gtest.h>
#include <utf8proc.h>

#include <cstdlib>
#include <memory>
#include <random>
#include <string>

#include "common/text/utf8.h"

namespace longhaul::text {
namespace {

std::string Nfc(std::string_view text) { return NormalizeNfc(text).value_or(std::string(text)); }

TEST(NormalizeNfc, LeavesTextThatIsNfcAlone) {
  for (const char* text : {"", "plain ASCII\n", "d\u00E9j\u00E0 vu", "\u4F60\u597D", "\uC548\uB155",
                           "\u041F\u0440\u0438\u0432\u0435\u0442", "\U0001F468\u200D\U0001F469"}) {
    EXPECT_EQ(NormalizeNfc(text), std::nullopt) << text;
  }
}

TEST(NormalizeNfc, ComposesAndOrders) {
  struct Case {
    const char* name;
    const char* text;
    const char* nfc;
  };
  const Case cases[] = {
      {"letter and mark", "e\u0301", "\u00E9"},
      {"mark at the start", "\u0301e", "\u0301e"},
      {"two marks out of order", "s\u0307\u0323", "\u1E69"},
      {"blocked mark", "a\u0315\u0300\u05AE\u0300", "\u00E0\u05AE\u0300\u0315"},
      {"singleton", "\u212B\u2126", "\u00C5\u03A9"},
      {"excluded from composition", "\u0958", "\u0915\u093C"},
      {"decomposes to marks", "q\u0344", "q\u0308\u0301"},
      {"Hangul", "\u1112\u1161\u11AB", "\uD55C"},
      {"Hangul, syllable and final", "\uD558\u11AB", "\uD55C"},
      {"U+11A7 is no final and stays", "\uAC00\u11A7x", "\uAC00\u11A7x"},
      {"vowel sign of class 0", "\u09C7\u09BE", "\u09CB"},
      {"composed, then a mark", "abc\u00E9\u0323def", "abc\u1EB9\u0301def"},
      {"mark across ASCII", ">\u0338", "\u226F"},
      {"mark unknown to Unicode 9, last", "a\u0C55\u0D3B", "a\u0C55\u0D3B"},
      {"mark unknown to Unicode 9, first", "a\U0001E08F\u0323", "a\U0001E08F\u0323"},
  };
  for (const Case& c : cases) EXPECT_EQ(Nfc(c.text), c.nfc) << c.name;
}

// utf8proc's own whole-string function is the oracle, over code points both treat alike.
TEST(NormalizeNfc, AgreesWithUtf8procOnRandomText) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(::testing::Message() << "seed " << seed);
  std::mt19937 rng(seed);
  constexpr struct {
    char32_t begin, end;
  } kRanges[] = {{'a', 'f'},       {0x300, 0x345},   {0xC0, 0x180},    {0x1E00, 0x2000},
                 {0x1100, 0x1113}, {0x1161, 0x1176}, {0x11A8, 0x11C3}, {0xAC00, 0xAD00},
                 {0x915, 0x95F},   {0x9BE, 0x9DF},   {0xF71, 0xF84},   {0x1D15E, 0x1D173}};
  for (int round = 0; round < 20000; ++round) {
    std::string text;
    for (auto i = 1 + rng() % 8; i > 0; --i) {
      const auto& range = kRanges[rng() % std::size(kRanges)];
      AppendCodePoint(range.begin + static_cast<char32_t>(rng() % (range.end - range.begin)), text);
    }
    const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> expected(
        utf8proc_NFC(reinterpret_cast<const utf8proc_uint8_t*>(text.c_str())), &std::free);
    ASSERT_EQ(Nfc(text), reinterpret_cast<const char*>(expected.get())) << text;
  }
}

TEST(NormalizeNfc, EndlessMarksAreSortedInTime) {
  std::string text = "q";
  for (int i = 0; i < 100000; ++i) text += "\u0301\u0323";
  std::string sorted = "q";
  for (int i = 0; i < 100000; ++i) sorted += "\u0323";
  for (int i = 0; i < 100000; ++i) sorted += "\u0301";
  EXPECT_EQ(Nfc(text), sorted);
}

}  // namespace
}  // namespace longhaul::text
