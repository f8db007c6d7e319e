#include "router/prompt_output.h"

#include <gtest/gtest.h>

#include <random>

#include "tests/testing/paths.h"
#include "tests/testing/status_matchers.h"

namespace longhaul::router {
namespace {

using longhaul::testing::StatusIs;
using ::testing::_;

class PromptOutputTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    auto tokenizer = text::Tokenizer::Load(longhaul::testing::SourcePath("models/demo"));
    ASSERT_OK(tokenizer);
    tokenizer_ = tokenizer->release();
  }
  static void TearDownTestSuite() { delete tokenizer_; }

  // Tokens of `prompt` from `begin` to `end` as a worker tells them.
  static std::vector<GeneratedToken> Told(const std::vector<TokenId>& prompt, size_t begin,
                                          size_t end) {
    std::vector<GeneratedToken> tokens;
    for (size_t i = begin; i < end; ++i) {
      tokens.push_back({.token = prompt[i], .logprob = -static_cast<float>(i)});
    }
    return tokens;
  }

  static const text::Tokenizer* tokenizer_;
  // A special token, characters of several tokens, and one that never ends.
  const std::vector<TokenId> prompt_ = [] {
    std::vector<TokenId> ids =
        *tokenizer_->Encode("<|im_start|>user 世界 \xF0\x9F\x91\x8D!", text::SpecialTokens::kParse);
    const std::vector<TokenId> last = *tokenizer_->Encode("界", text::SpecialTokens::kAsText);
    if (last.size() > 1) ids.push_back(last.front());
    return ids;
  }();
};
const text::Tokenizer* PromptOutputTest::tokenizer_ = nullptr;

TEST_F(PromptOutputTest, HoweverAWorkerCutsItTheClientReadsEveryPositionOnce) {
  const std::string whole = tokenizer_->Decode(prompt_, /*skip_special=*/false);
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  for (int round = 0; round < 200; ++round) {
    PromptOutput output(*tokenizer_, prompt_, {.text = true, .logprobs = true}, /*choice=*/2);
    std::string text;
    std::vector<GeneratedToken> tokens;
    // Two executions: the first breaks off somewhere, the second begins anew.
    for (const size_t stop : {1 + random() % prompt_.size(), prompt_.size()}) {
      for (size_t begin = 1; begin < stop;) {
        const size_t end = std::min(stop, begin + 1 + random() % 3);
        const auto event = output.Push(static_cast<int32_t>(begin), Told(prompt_, begin, end));
        ASSERT_OK(event);
        begin = end;
        if (!event->has_value()) continue;
        EXPECT_EQ((*event)->choice, 2);
        EXPECT_EQ((*event)->begin, static_cast<int32_t>(tokens.size()));
        text += (*event)->text;
        tokens.insert(tokens.end(), (*event)->tokens.begin(), (*event)->tokens.end());
      }
    }
    const auto rest = output.Finish("");
    ASSERT_OK(rest);
    EXPECT_FALSE(rest->has_value());
    EXPECT_EQ(text, whole);
    ASSERT_EQ(tokens.size(), prompt_.size());
    EXPECT_FALSE(tokens[0].logprob);
    for (size_t i = 0; i < tokens.size(); ++i) {
      EXPECT_EQ(tokens[i].token, prompt_[i]);
      if (i == 0) continue;
      EXPECT_EQ(tokens[i].logprob, -static_cast<float>(i));
    }
  }
}

TEST_F(PromptOutputTest, WithoutLogprobsTheTextIsOneEvent) {
  PromptOutput output(*tokenizer_, prompt_, {.text = true}, /*choice=*/1);
  const auto event = output.Finish("the text");
  ASSERT_OK(event);
  ASSERT_TRUE(event->has_value());
  EXPECT_EQ((*event)->text, "the text");
  EXPECT_EQ((*event)->choice, 1);
  EXPECT_TRUE((*event)->tokens.empty());
  EXPECT_FALSE(output.Finish("the text")->has_value()) << "told twice";
}

TEST_F(PromptOutputTest, WithoutEchoLogprobsHaveNoText) {
  PromptOutput output(*tokenizer_, prompt_, {.logprobs = true}, /*choice=*/0);
  const auto event = output.Push(1, Told(prompt_, 1, prompt_.size()));
  ASSERT_OK(event);
  ASSERT_TRUE(event->has_value());
  EXPECT_EQ((*event)->text, "");
  EXPECT_EQ((*event)->tokens.size(), prompt_.size());
}

TEST_F(PromptOutputTest, APromptOfOneTokenHasNothingToWaitFor) {
  const std::vector<TokenId> prompt = {prompt_.front()};
  PromptOutput output(*tokenizer_, prompt, {.text = true, .logprobs = true}, /*choice=*/0);
  const auto event = output.Finish("");
  ASSERT_OK(event);
  ASSERT_TRUE(event->has_value());
  EXPECT_EQ((*event)->text, tokenizer_->Decode(prompt, false));
  ASSERT_EQ((*event)->tokens.size(), 1u);
  EXPECT_FALSE((*event)->tokens[0].logprob);
}

TEST_F(PromptOutputTest, AClientWhoWantsNothingGetsNothing) {
  PromptOutput output(*tokenizer_, prompt_, {}, /*choice=*/0);
  EXPECT_FALSE(output.Finish("text")->has_value());
}

TEST_F(PromptOutputTest, WhatAWorkerMayNotSayIsAnError) {
  const auto push = [this](PromptReport report, int32_t begin, std::vector<GeneratedToken> tokens) {
    PromptOutput output(*tokenizer_, prompt_, report, /*choice=*/0);
    return output.Push(begin, std::move(tokens)).status();
  };
  const PromptReport wanted = {.logprobs = true};
  const size_t size = prompt_.size();
  EXPECT_OK(push(wanted, 1, Told(prompt_, 1, size)));
  EXPECT_THAT(push({.text = true}, 1, Told(prompt_, 1, 2)),
              StatusIs(absl::StatusCode::kInternal, _));
  EXPECT_THAT(push(wanted, 0, Told(prompt_, 0, 2)), StatusIs(absl::StatusCode::kInternal, _));
  EXPECT_THAT(push(wanted, -1, Told(prompt_, 1, 2)), StatusIs(absl::StatusCode::kInternal, _));
  EXPECT_THAT(push(wanted, 2, Told(prompt_, 2, 3)), StatusIs(absl::StatusCode::kInternal, _));
  EXPECT_THAT(push(wanted, 1, std::vector<GeneratedToken>(size)),
              StatusIs(absl::StatusCode::kInternal, _));
  std::vector<GeneratedToken> other = Told(prompt_, 1, 3);
  other[1].token ^= 1;
  EXPECT_THAT(push(wanted, 1, other), StatusIs(absl::StatusCode::kInternal, _));
  std::vector<GeneratedToken> bare = Told(prompt_, 1, 3);
  bare[0].logprob.reset();
  EXPECT_THAT(push(wanted, 1, bare), StatusIs(absl::StatusCode::kInternal, _));

  PromptOutput early(*tokenizer_, prompt_, wanted, /*choice=*/0);
  EXPECT_OK(early.Push(1, Told(prompt_, 1, size - 1)));
  EXPECT_THAT(early.Finish("").status(), StatusIs(absl::StatusCode::kInternal, _));
}

}  // namespace
}  // namespace longhaul::router
