// Prompts on their way back to clients: through a router without frontends, from a faked leader.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "router/error_detail.h"
#include "tests/testing/fake_worker.h"
#include "tests/testing/recording_sink.h"
#include "tests/testing/router_stack.h"
#include "tests/testing/status_matchers.h"

namespace longhaul::router {
namespace {

using longhaul::testing::FakeBehavior;
using longhaul::testing::FakeWorker;
using longhaul::testing::RecordedResponse;
using longhaul::testing::RouterStack;
using longhaul::testing::StatusIs;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr const char* kPrompt = "<|im_start|>What is the pass key? 世界 28884.";

class PromptReportTest : public ::testing::Test {
 protected:
  PromptReportTest() : worker_(*FakeWorker::Start({})), router_({.workers = {worker_->address()}}) {
    CHECK(router_.WaitForGroups(1));
  }

  static GenerateRequest Completion() {
    GenerateRequest request;
    request.input = TextInput{kPrompt};
    request.max_tokens = 4;
    return request;
  }
  std::vector<TokenId> PromptIds() const {
    return *router_.model().tokenizer->Encode(kPrompt, text::SpecialTokens::kParse);
  }

  // The prompt's tokens as choice `choice` was told them.
  static std::vector<GeneratedToken> TokensOf(const RecordedResponse& response, int32_t choice) {
    std::vector<GeneratedToken> tokens;
    for (const PromptEvent& event : response.prompt) {
      if (event.choice != choice) continue;
      EXPECT_EQ(event.begin, static_cast<int32_t>(tokens.size()));
      tokens.insert(tokens.end(), event.tokens.begin(), event.tokens.end());
    }
    return tokens;
  }
  static std::string TextOf(const RecordedResponse& response, int32_t choice) {
    std::string text;
    for (const PromptEvent& event : response.prompt) {
      if (event.choice == choice) text += event.text;
    }
    return text;
  }

  std::unique_ptr<FakeWorker> worker_;
  RouterStack router_;
};

TEST_F(PromptReportTest, EchoIsTheWholeTextOnceForEachChoice) {
  GenerateRequest request = Completion();
  request.echo = true;
  request.num_choices = 2;
  const RecordedResponse response = router_.Submit(std::move(request))->WaitForEnd();
  ASSERT_FALSE(response.error) << *response.error;
  ASSERT_THAT(response.prompt, SizeIs(2));
  EXPECT_EQ(TextOf(response, 0), kPrompt);
  EXPECT_EQ(TextOf(response, 1), kPrompt);
  EXPECT_THAT(response.finished, SizeIs(2));
  EXPECT_FALSE(worker_->executions().at(0).prompt_logprobs);
}

TEST_F(PromptReportTest, ATruncatedPromptIsEchoedAsTheModelReadsIt) {
  GenerateRequest request = Completion();
  request.echo = true;
  request.truncate_prompt_tokens = 3;
  const RecordedResponse response = router_.Submit(std::move(request))->WaitForEnd();
  ASSERT_FALSE(response.error) << *response.error;
  const std::vector<TokenId> ids = PromptIds();
  EXPECT_EQ(TextOf(response, 0),
            router_.model().tokenizer->Decode({ids.end() - 3, ids.end()}, false));
}

TEST_F(PromptReportTest, LogprobsComeInPartsThatJoin) {
  GenerateRequest request = Completion();
  request.echo = true;
  request.sampling.prompt_logprobs = 2;
  const RecordedResponse response = router_.Submit(std::move(request))->WaitForEnd();
  ASSERT_FALSE(response.error) << *response.error;
  EXPECT_EQ(worker_->executions().at(0).prompt_logprobs, 2);
  EXPECT_EQ(TextOf(response, 0), kPrompt);
  const std::vector<GeneratedToken> tokens = TokensOf(response, 0);
  const std::vector<TokenId> ids = PromptIds();
  ASSERT_EQ(tokens.size(), ids.size());
  for (size_t i = 0; i < ids.size(); ++i) {
    EXPECT_EQ(tokens[i].token, ids[i]);
    ASSERT_EQ(tokens[i].logprob.has_value(), i > 0);
    if (i == 0) continue;
    EXPECT_EQ(*tokens[i].logprob, -0.5f * static_cast<float>(i));
    EXPECT_THAT(tokens[i].top_logprobs, SizeIs(2));
  }
  EXPECT_GT(response.prompt.size(), 1u);
}

TEST_F(PromptReportTest, WithoutAnOutputTokenThePromptIsToldAllTheSame) {
  GenerateRequest request = Completion();
  request.max_tokens = 0;
  request.sampling.prompt_logprobs = 0;
  const RecordedResponse response = router_.Submit(std::move(request))->WaitForEnd();
  ASSERT_FALSE(response.error) << *response.error;
  EXPECT_EQ(TokensOf(response, 0).size(), PromptIds().size());
  EXPECT_EQ(TextOf(response, 0), "");
  EXPECT_THAT(response.deltas, IsEmpty());
}

TEST_F(PromptReportTest, AfterARetryNothingIsToldTwice) {
  // The first is asked first, for the second has a backlog.
  FakeBehavior failing;
  failing.fail_after_prompt_events = 2;
  worker_->SetBehavior(failing);
  FakeBehavior other;
  other.prompt_logprobs_per_event = 4;
  const auto second =
      *FakeWorker::Start({.load = {.queued_seconds = 100}, .behavior = std::move(other)});
  RouterStack router({.workers = {worker_->address(), second->address()}});
  ASSERT_TRUE(router.WaitForGroups(2));
  GenerateRequest request = Completion();
  request.echo = true;
  request.sampling.prompt_logprobs = 1;
  const auto sink = router.Submit(std::move(request));
  const RecordedResponse response = sink->WaitForEnd();
  ASSERT_FALSE(response.error) << *response.error;
  EXPECT_EQ(TextOf(response, 0), kPrompt);
  EXPECT_EQ(TokensOf(response, 0).size(), PromptIds().size());
  EXPECT_THAT(worker_->executions(), SizeIs(1));
  EXPECT_THAT(second->executions(), SizeIs(1));
}

TEST_F(PromptReportTest, LimitsAreNamed) {
  GenerateRequest request = Completion();
  request.sampling.prompt_logprobs = 21;
  absl::Status status = *router_.Submit(std::move(request))->WaitForEnd().error;
  EXPECT_THAT(status,
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("prompt_logprobs is 21")));

  request = Completion();
  request.input = TokenInput{std::vector<TokenId>(32769, 5)};
  request.sampling.prompt_logprobs = 0;
  status = *router_.Submit(std::move(request))->WaitForEnd().error;
  EXPECT_EQ(DetailOf(status).field, "prompt_logprobs");
  EXPECT_THAT(std::string(status.message()), HasSubstr("prompt has 32769 tokens"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("32768 (--max-prompt-logprobs-tokens)"));

  request = Completion();
  request.input = ChatInput{.messages = {{.role = "user", .content = "Hello"}}};
  request.echo = true;
  status = *router_.Submit(std::move(request))->WaitForEnd().error;
  EXPECT_EQ(DetailOf(status).field, "echo");
}

}  // namespace
}  // namespace longhaul::router
