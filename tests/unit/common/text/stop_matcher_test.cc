#include "common/text/stop_matcher.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "tests/testing/status_matchers.h"

namespace longhaul::text {
namespace {

using ::testing::HasSubstr;
using testing::StatusIs;

// What is emitted of `pieces` in all, and which stop string ended it.
struct Outcome {
  std::string text;
  std::optional<size_t> stop_index;
};

Outcome Feed(StopMatcher matcher, const std::vector<std::string>& pieces) {
  Outcome outcome;
  for (const std::string& piece : pieces) {
    const StopMatcher::Result result = matcher.Push(piece);
    outcome.text += result.text;
    outcome.stop_index = result.stop_index;
  }
  outcome.text += matcher.Flush();
  return outcome;
}

StopMatcher Matcher(std::vector<std::string> stops) {
  auto matcher = StopMatcher::Create(std::move(stops));
  EXPECT_OK(matcher);
  return *std::move(matcher);
}

TEST(StopMatcher, EmitsAtOnceWhatCannotBecomeAStop) {
  StopMatcher matcher = Matcher({"END"});
  EXPECT_EQ(matcher.Push("abcE").text, "abc");
  EXPECT_EQ(matcher.Push("N").text, "");
  EXPECT_EQ(matcher.Push("Ex").text, "ENEx");
}

TEST(StopMatcher, FindsAStopSplitOverPieces) {
  const Outcome outcome = Feed(Matcher({"\n\n", "STOP"}), {"go", "ST", "O", "P and on", "more"});
  EXPECT_EQ(outcome.text, "go");
  EXPECT_EQ(outcome.stop_index, 1u);
}

TEST(StopMatcher, FlushReturnsWhatWasHeldBack) {
  const Outcome outcome = Feed(Matcher({"STOP"}), {"a STO"});
  EXPECT_EQ(outcome.text, "a STO");
  EXPECT_EQ(outcome.stop_index, std::nullopt);
}

TEST(StopMatcher, FallsBackWithinAStopThatRepeatsItself) {
  EXPECT_EQ(Feed(Matcher({"aab"}), {"a", "a", "a", "b", "c"}).text, "a");
  EXPECT_EQ(Feed(Matcher({"ababc"}), {"abab", "abc"}).text, "ab");
}

TEST(StopMatcher, TheStopCompleteFirstWinsAndOfThoseTheLongest) {
  const Outcome inner = Feed(Matcher({"abcd", "bc"}), {"xabcd"});
  EXPECT_EQ(inner.text, "xa");
  EXPECT_EQ(inner.stop_index, 1u);
  const Outcome together = Feed(Matcher({"c", "abc"}), {"xabcd"});
  EXPECT_EQ(together.text, "x");
  EXPECT_EQ(together.stop_index, 1u);
}

TEST(StopMatcher, WithoutStopsEverythingPasses) {
  EXPECT_EQ(Feed(Matcher({}), {"a", "", "b"}).text, "ab");
}

TEST(StopMatcher, RefusesWhatItCannotMatch) {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_OK(StopMatcher::Create(std::vector<std::string>(16, std::string(1024, 'x'))));
  EXPECT_THAT(StopMatcher::Create(std::vector<std::string>(17, "x")),
              StatusIs(kInvalid, HasSubstr("17 stop strings were given, limit 16")));
  EXPECT_THAT(StopMatcher::Create({"a", ""}), StatusIs(kInvalid, HasSubstr("string 1 is empty")));
  EXPECT_THAT(StopMatcher::Create({std::string(1025, 'x')}),
              StatusIs(kInvalid, HasSubstr("1025 bytes, limit 1024")));
  EXPECT_THAT(StopMatcher::Create({"ab\xFF"}), StatusIs(kInvalid, HasSubstr("at byte 2")));
}

TEST(StopMatcher, AnyCutGivesWhatSearchingTheWholeGives) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(::testing::Message() << "seed " << seed);
  std::mt19937 rng(seed);
  const auto random_text = [&rng](size_t length) {
    std::string text;
    for (size_t i = 0; i < length; ++i) text.push_back(static_cast<char>('a' + rng() % 2));
    return text;
  };
  for (int round = 0; round < 5000; ++round) {
    std::vector<std::string> stops;
    for (auto i = 1 + rng() % 3; i > 0; --i) stops.push_back(random_text(1 + rng() % 6));
    const std::string whole = random_text(rng() % 30);
    size_t first_end = std::string::npos;
    std::string expected = whole;
    for (const std::string& stop : stops) {
      const size_t begin = whole.find(stop);
      if (begin == std::string::npos) continue;
      const size_t end = begin + stop.size();
      if (end < first_end || (end == first_end && begin < expected.size())) {
        first_end = end;
        expected = whole.substr(0, begin);
      }
    }
    std::vector<std::string> pieces;
    for (size_t offset = 0; offset < whole.size();) {
      const size_t length = 1 + rng() % 5;
      pieces.push_back(whole.substr(offset, length));
      offset += length;
    }
    const Outcome outcome = Feed(Matcher(stops), pieces);
    ASSERT_EQ(outcome.text, expected) << whole;
    ASSERT_EQ(outcome.stop_index.has_value(), first_end != std::string::npos) << whole;
  }
}

}  // namespace
}  // namespace longhaul::text
