#include "worker/leader/prompt_logprobs.h"

#include <cmath>
#include <numeric>
#include <utility>

#include "tests/testing/engine_core_fixture.h"

namespace longhaul::worker::leader {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// Through the engine core, which tells what was checked here. The token at position p is p % 900.
class PromptLogprobsTest : public ::longhaul::testing::EngineCoreFixture {
 protected:
  using EngineCoreFixture::EngineCoreFixture;

  Request MakeScored(int64_t prompt_tokens, int32_t max_tokens, int32_t prompt_logprobs) {
    Request request = MakeRequest(prompt_tokens, max_tokens);
    for (int64_t p = 0; p < prompt_tokens; ++p) request.prompt[p] = static_cast<TokenId>(p % 900);
    request.sampling.prompt_logprobs = prompt_logprobs;
    return request;
  }
  // Positions that were told, in the order of the events; checks each token's number.
  static std::vector<int64_t> Told(const Answer& answer) {
    std::vector<int64_t> positions;
    for (const PromptLogprobsEvent& event : Only<PromptLogprobsEvent>(answer)) {
      int64_t position = event.begin;
      for (const GeneratedToken& token : event.tokens) {
        EXPECT_EQ(token.token, position % 900);
        EXPECT_EQ(token.logprob, static_cast<float>(-position));
        positions.push_back(position++);
      }
    }
    return positions;
  }
  static std::vector<int64_t> Positions(int64_t begin, int64_t end) {
    std::vector<int64_t> positions(end - begin);
    std::iota(positions.begin(), positions.end(), begin);
    return positions;
  }
  // A finished request that nobody reads, kept for a minute.
  RequestId Detached(int64_t prompt_tokens) {
    Request request = MakeScored(prompt_tokens, 0, 0);
    request.detach_ttl = absl::Seconds(60);
    const Answer answer = Submit(std::move(request));
    answer.log->RemoveReader(answer.reader.get());
    core_.ReaderLeft(answer.id, now_);
    while (!answer.log->closed()) Execute();
    return answer.id;
  }
};

TEST_F(PromptLogprobsTest, TellsThePromptsLogprobsChunkByChunkBeforeTheFirstToken) {
  Up();
  const Answer answer = Submit(MakeScored(1000, 1, 3));
  Execute();
  EXPECT_EQ(Told(answer), Positions(1, 513));
  Execute(7);
  EXPECT_EQ(Told(answer), Positions(1, 1000));
  const std::vector<Event> events = Events(answer);
  ASSERT_THAT(events, SizeIs(7));
  EXPECT_TRUE(std::holds_alternative<ProgressEvent>(events[1]));
  EXPECT_EQ(std::get<PromptLogprobsEvent>(events[2]).begin, 1);
  EXPECT_THAT(std::get<PromptLogprobsEvent>(events[2]).tokens[0].top_logprobs, SizeIs(3));
  EXPECT_EQ(std::get<PromptLogprobsEvent>(events[4]).begin, 513);
  EXPECT_TRUE(std::holds_alternative<TokensEvent>(events[5]));
  EXPECT_THAT(sink_.failures, IsEmpty());
}

TEST_F(PromptLogprobsTest, APromptsLogprobsComeWithoutOutputToo) {
  Up();
  const Answer answer = Submit(MakeScored(600, 0, 0));
  Execute();
  Execute();
  EXPECT_EQ(Told(answer), Positions(1, 600));
  EXPECT_EQ(Finished(answer).reason, FinishReason::kLength);
  EXPECT_EQ(Finished(answer).completion_tokens, 0);
}

TEST_F(PromptLogprobsTest, APromptOfOneTokenHasNoLogprobs) {
  Up();
  const Answer answer = Submit(MakeScored(1, 1, 20));
  Execute();
  EXPECT_THAT(Only<PromptLogprobsEvent>(answer), IsEmpty());
  EXPECT_THAT(Output(answer), SizeIs(1));
  EXPECT_THAT(sink_.failures, IsEmpty());
}

class LargeStepsTest : public PromptLogprobsTest {
 protected:
  LargeStepsTest() : PromptLogprobsTest(1, 4096) {}
};

TEST_F(LargeStepsTest, EventsOfPromptLogprobsAreBounded) {
  Up();
  const Answer answer = Submit(MakeScored(2050, 1, 1));
  Execute();
  std::vector<size_t> sizes;
  for (const auto& event : Only<PromptLogprobsEvent>(answer)) sizes.push_back(event.tokens.size());
  EXPECT_THAT(sizes, ElementsAre(1024, 1024, 1));
  EXPECT_EQ(Told(answer), Positions(1, 2050));
}

TEST_F(PromptLogprobsTest, AReplayTellsNoPositionTwice) {
  Up();
  const Answer answer = Submit(MakeScored(1200, 1, 1));
  Execute();
  EXPECT_EQ(Told(answer), Positions(1, 513));
  Down();
  // Its mate takes some of the first step now, so chunks end elsewhere than before.
  Request mate = MakeRequest(100, 1);
  mate.priority = 1;
  Submit(std::move(mate));
  Up(2);
  for (int i = 0; i < 4; ++i) Execute();
  EXPECT_EQ(Told(answer), Positions(1, 1200));
  EXPECT_EQ(Finished(answer).reason, FinishReason::kLength);
  EXPECT_THAT(sink_.failures, IsEmpty());
}

TEST_F(PromptLogprobsTest, PromptLogprobsThatWereNotAskedForFailTheGroup) {
  const struct {
    const char* error;
    void (*damage)(StepResult&);
  } kCases[] = {
      {"brought no prompt logprobs", [](StepResult& r) { r.prompt_logprobs.clear(); }},
      {"of 2 sequences, asked for or not twice were 1",
       [](StepResult& r) { r.prompt_logprobs.push_back(r.prompt_logprobs[0]); }},
      {"of 2 sequences",
       [](StepResult& r) {
         r.prompt_logprobs.push_back(r.prompt_logprobs[0]);
         r.prompt_logprobs[1].sequence_id = 2;  // runs, and asked for none
       }},
      {"no prompt logprobs for sequence 1",
       [](StepResult& r) { r.prompt_logprobs[0].sequence_id = 77; }},
      {"99 at 2, asked for were 99 at 1", [](StepResult& r) { r.prompt_logprobs[0].begin = 2; }},
      {"98 at 1, asked", [](StepResult& r) { r.prompt_logprobs[0].tokens.pop_back(); }},
      {"100 at 1, asked",
       [](StepResult& r) { r.prompt_logprobs[0].tokens.push_back({.token = 100, .logprob = -1}); }},
      {"position 11: is token 12, the prompt has 11",
       [](StepResult& r) { r.prompt_logprobs[0].tokens[10].token = 12; }},
      {"position 1: has no logprob",
       [](StepResult& r) { r.prompt_logprobs[0].tokens[0].logprob.reset(); }},
      {"position 2: has no logprob",
       [](StepResult& r) { r.prompt_logprobs[0].tokens[1].logprob = NAN; }},
      {"has 1 alternatives, asked for 2",
       [](StepResult& r) { r.prompt_logprobs[0].tokens[3].top_logprobs.pop_back(); }},
      {"alternative 1000 ",
       [](StepResult& r) { r.prompt_logprobs[0].tokens[3].top_logprobs[1].token = 1000; }},
      {"alternative -1 ",
       [](StepResult& r) { r.prompt_logprobs[0].tokens[3].top_logprobs[0].token = -1; }},
  };
  uint64_t incarnation = 0;
  for (const auto& c : kCases) {
    const Answer scored = Submit(MakeScored(100, 1, 2));
    const Answer mate = Submit(10, 1);
    Up(++incarnation);
    StepResult result = Result();
    c.damage(result);
    const size_t failures = sink_.failures.size();
    Done(result);
    ASSERT_THAT(sink_.failures, SizeIs(failures + 1)) << c.error;
    EXPECT_THAT(sink_.failures.back(), HasSubstr(c.error));
    EXPECT_THAT(Only<PromptLogprobsEvent>(scored), IsEmpty()) << c.error;
    core_.Cancel(scored.id, now_);
    core_.Cancel(mate.id, now_);
    Down(incarnation);
  }
}

TEST_F(PromptLogprobsTest, AScoredSequencesErrorNeedsNoLogprobs) {
  Up();
  const Answer answer = Submit(MakeScored(100, 1, 2));
  StepResult result = Result();
  result.errors.push_back({result.prompt_logprobs[0].sequence_id, "NaN in the logits"});
  result.prompt_logprobs.clear();
  result.sampled.clear();
  Done(result);
  EXPECT_THAT(sink_.failures, IsEmpty());
  EXPECT_EQ(Finished(answer).error.code(), absl::StatusCode::kInternal);
}

TEST_F(PromptLogprobsTest, LogprobsOfACancelledPromptAreDropped) {
  Up();
  const Answer answer = Submit(MakeScored(1000, 1, 1));
  core_.Cancel(answer.id, now_);
  core_.Advance(now_);
  Execute();
  EXPECT_THAT(sink_.failures, IsEmpty());
  EXPECT_THAT(Only<PromptLogprobsEvent>(answer), IsEmpty());
}

TEST_F(PromptLogprobsTest, StepsWithPromptLogprobsTeachAndFollowNoPrediction) {
  Up();
  Submit(MakeScored(5120, 1, 1));
  for (int i = 0; i < 5; ++i) Execute(5, 100);
  EXPECT_EQ(sink_.predictions.back(), std::nullopt);
  for (int i = 0; i < 7; ++i) Execute(5, 100);
  Submit(5120, 1);
  for (int i = 0; i < 5; ++i) Execute(5, 0.512);
  ASSERT_TRUE(sink_.predictions.back().has_value());
  EXPECT_NEAR(*sink_.predictions.back(), 0.512, 0.05);
}

TEST_F(PromptLogprobsTest, KeptAnswersAreBoundedByTheirTokens) {
  Up();
  // 1,199 tokens each, limit 3,000.
  const RequestId first = Detached(1200);
  const RequestId second = Detached(1200);
  EXPECT_NE(requests_.Find(first), nullptr);
  const RequestId third = Detached(1200);
  EXPECT_EQ(requests_.Find(first), nullptr) << "the oldest goes";
  EXPECT_NE(requests_.Find(second), nullptr);
  Pass(absl::Seconds(61));
  EXPECT_EQ(requests_.Find(third), nullptr);
  const RequestId fourth = Detached(1200);
  const RequestId fifth = Detached(1200);
  EXPECT_NE(requests_.Find(fourth), nullptr) << "what expired counts no more";
  const RequestId large = Detached(5000);
  EXPECT_EQ(requests_.Find(fifth), nullptr);
  EXPECT_NE(requests_.Find(large), nullptr) << "the newest stays, whatever its size";
}

}  // namespace
}  // namespace longhaul::worker::leader
