#include "router/choice_output.h"

#include <gtest/gtest.h>

#include "tests/testing/paths.h"
#include "tests/testing/status_matchers.h"

namespace longhaul::router {
namespace {

class ChoiceOutputTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    auto tokenizer = text::Tokenizer::Load(longhaul::testing::SourcePath("models/demo"));
    ASSERT_OK(tokenizer);
    tokenizer_ = tokenizer->release();
  }
  static void TearDownTestSuite() { delete tokenizer_; }

  ChoiceOutput Make(std::vector<std::string> stops, int32_t min_tokens = 0) {
    return ChoiceOutput(*tokenizer_, *text::StopMatcher::Create(stops), stops, /*choice=*/3,
                        min_tokens);
  }
  std::vector<TokenId> Ids(const std::string& text) {
    return *tokenizer_->Encode(text, text::SpecialTokens::kAsText);
  }
  // Pushes token by token; returns the text that came out before the end.
  static std::string PushAll(ChoiceOutput& output, const std::vector<TokenId>& ids) {
    std::string text;
    for (const TokenId id : ids) text += output.Push({{.token = id}}).text;
    return text;
  }

  static const text::Tokenizer* tokenizer_;
};
const text::Tokenizer* ChoiceOutputTest::tokenizer_ = nullptr;

TEST_F(ChoiceOutputTest, TheTextIsThatOfTheTokens) {
  const std::string text = "The pass key is 28884. Grüße, 世界!";
  ChoiceOutput output = Make({});
  std::string seen = PushAll(output, Ids(text));
  if (const auto rest = output.Flush()) seen += rest->text;
  EXPECT_EQ(seen, text);
  EXPECT_FALSE(output.stopped());
  EXPECT_EQ(output.num_tokens(), static_cast<int32_t>(Ids(text).size()));
}

TEST_F(ChoiceOutputTest, AStopStringOverTokensEndsTheTextBeforeIt) {
  const std::vector<TokenId> ids = Ids("The pass key is 28884. Remember it.");
  ChoiceOutput output = Make({"nothing", "888"});
  EXPECT_EQ(PushAll(output, ids), "The pass key is 2");
  EXPECT_TRUE(output.stopped());
  EXPECT_EQ(output.stop(), "888");
  EXPECT_LT(output.num_tokens(), static_cast<int32_t>(ids.size()));
  EXPECT_FALSE(output.Flush().has_value());
}

TEST_F(ChoiceOutputTest, TokensBehindAStopInTheSameEventAreDropped) {
  ChoiceOutput output = Make({"pass"});
  std::vector<GeneratedToken> tokens;
  for (const TokenId id : Ids("The pass key is 28884.")) tokens.push_back({.token = id});
  const size_t all = tokens.size();
  const DeltaEvent delta = output.Push(std::move(tokens));
  EXPECT_EQ(delta.choice, 3);
  EXPECT_EQ(delta.text, "The ");
  EXPECT_LT(delta.tokens.size(), all);
  EXPECT_EQ(static_cast<int32_t>(delta.tokens.size()), output.num_tokens());
}

TEST_F(ChoiceOutputTest, WhatLookedLikeAStopComesOutAtTheEnd) {
  ChoiceOutput output = Make({"28885"});
  EXPECT_EQ(PushAll(output, Ids("key 2888")), "key ");
  const auto rest = output.Flush();
  ASSERT_TRUE(rest.has_value());
  EXPECT_EQ(rest->text, "2888");
  EXPECT_FALSE(output.stopped());
}

TEST_F(ChoiceOutputTest, StopStringsWaitForMinTokens) {
  const std::vector<TokenId> ids = Ids("stop and stop");
  ChoiceOutput output = Make({"stop"}, /*min_tokens=*/static_cast<int32_t>(Ids("stop").size()));
  EXPECT_EQ(PushAll(output, ids), "stop and ");
  EXPECT_TRUE(output.stopped());
}

}  // namespace
}  // namespace longhaul::router
