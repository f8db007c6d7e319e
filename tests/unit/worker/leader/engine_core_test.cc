#include "worker/leader/engine_core.h"

#include <optional>
#include <utility>

#include "tests/testing/engine_core_fixture.h"

namespace longhaul::worker::leader {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

using EngineCoreTest = ::longhaul::testing::EngineCoreFixture;

TEST_F(EngineCoreTest, TellsTheStoryOfARequestInOrder) {
  Up();
  const Answer answer = Submit(1000, 2);
  Execute();
  Execute(7);
  Execute(8);
  const std::vector<Event> events = Events(answer);
  ASSERT_THAT(events, SizeIs(6));
  EXPECT_TRUE(std::holds_alternative<AdmittedEvent>(events[0]));
  EXPECT_EQ(std::get<ProgressEvent>(events[1]).processed_tokens, 512);
  EXPECT_EQ(std::get<ProgressEvent>(events[2]).processed_tokens, 1000);
  EXPECT_EQ(std::get<TokensEvent>(events[3]).tokens[0].token, 7);
  EXPECT_EQ(std::get<TokensEvent>(events[4]).tokens[0].token, 8);
  const FinishedEvent finished = Finished(answer);
  EXPECT_EQ(finished.reason, FinishReason::kLength);
  EXPECT_EQ(finished.prompt_tokens, 1000);
  EXPECT_EQ(finished.completion_tokens, 2);
  EXPECT_EQ(requests_.size(), 0u);
}

TEST_F(EngineCoreTest, TheEndTokenIsNotOutput) {
  Up();
  const Answer answer = Submit(10, 100);
  Execute(7);
  Execute(kEnd);
  EXPECT_THAT(Output(answer), ElementsAre(7));
  EXPECT_EQ(Finished(answer).reason, FinishReason::kStop);
  EXPECT_EQ(Finished(answer).completion_tokens, 1);
}

TEST_F(EngineCoreTest, MaxTokensZeroIsPrefillOnly) {
  Up();
  const Answer answer = Submit(600, 0);
  Execute();
  Execute();
  EXPECT_THAT(Output(answer), IsEmpty());
  EXPECT_EQ(Only<ProgressEvent>(answer).back().processed_tokens, 600);
  EXPECT_EQ(Finished(answer).reason, FinishReason::kLength);
}

TEST_F(EngineCoreTest, EtaFollowsTheObservedRate) {
  Up();
  const Answer answer = Submit(5120, 1);
  for (int i = 0; i < 5; ++i) Execute(5, 0.512);  // 1 ms a token
  const std::vector<ProgressEvent> progress = Only<ProgressEvent>(answer);
  ASSERT_THAT(progress, SizeIs(5));
  ASSERT_TRUE(progress.back().eta_seconds.has_value());
  EXPECT_NEAR(*progress.back().eta_seconds, 2.56, 0.1);
}

TEST_F(EngineCoreTest, UnitsUnlikeAnythingSeenHaveNoPrediction) {
  Up();
  Submit(5120, 1);
  EXPECT_EQ(sink_.predictions.back(), std::nullopt);
  for (int i = 0; i < 3; ++i) Execute(5, 0.512);
  ASSERT_TRUE(sink_.predictions.back().has_value());
  EXPECT_NEAR(*sink_.predictions.back(), 0.512, 0.05);
}

TEST_F(EngineCoreTest, ACancelledRequestPlansNothingMoreAndFreesItsBlocks) {
  Up();
  const Answer answer = Submit(5000, 10);
  EXPECT_LT(board_.Get().free_kv_blocks, 100);
  core_.Cancel(answer.id, now_);
  core_.Advance(now_);
  EXPECT_EQ(Finished(answer).reason, FinishReason::kCancelled);
  EXPECT_THAT(sink_.plans, SizeIs(1));
  Execute();
  EXPECT_EQ(board_.Get().free_kv_blocks, 100);
  ASSERT_THAT(sink_.plans, SizeIs(2));
  EXPECT_THAT(sink_.plans[1].units, IsEmpty());
  EXPECT_THAT(sink_.plans[1].ends, SizeIs(1));
  core_.Cancel(answer.id, now_);  // idempotent
}

TEST_F(EngineCoreTest, ADeadlineEndsRunningAndWaitingRequests) {
  Up();
  Request request = MakeRequest(5000, 10);
  request.deadline = now_ + absl::Seconds(10);
  const Answer answer = Submit(std::move(request));
  EXPECT_EQ(core_.next_wake(), now_ + absl::Seconds(10));
  Pass(absl::Seconds(9));
  EXPECT_FALSE(answer.log->closed());
  Pass(absl::Seconds(1));
  EXPECT_EQ(Finished(answer).reason, FinishReason::kError);
  EXPECT_EQ(Finished(answer).error.code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(EngineCoreTest, IdleItSleeps) {
  Up();
  Submit(10, 1);
  Execute();
  Execute();  // the end reaches the ranks
  EXPECT_EQ(core_.next_wake(), absl::InfiniteFuture());
}

TEST_F(EngineCoreTest, NaNFailsOneRequestAndNotItsNeighbour) {
  Up();
  const Answer bad = Submit(10, 5);
  Execute();
  const Answer good = Submit(10, 5);
  // Both are in no plan together yet: bad decodes alone, then both run.
  Execute();
  const StepPlan& plan = sink_.plans.back();
  ASSERT_THAT(plan.units[0].slices, SizeIs(2));
  StepResult result;
  result.step_id = plan.step_id;
  result.errors.push_back({plan.units[0].slices[0].sequence_id, "NaN in the logits"});
  result.sampled.push_back({plan.units[0].slices[1].sequence_id, {.token = 6}});
  Done(result);
  EXPECT_EQ(Finished(bad).error.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(Finished(bad).error.message()), HasSubstr("NaN"));
  EXPECT_FALSE(good.log->closed());
  EXPECT_THAT(Output(good), ElementsAre(6));
}

TEST_F(EngineCoreTest, ALostGroupReplaysWhatDeliveredNothingOnce) {
  Up();
  const Answer untold = Submit(5000, 10);
  Execute();
  Down();
  EXPECT_FALSE(untold.log->closed());
  EXPECT_FALSE(board_.Get().ready());
  Up(2);
  EXPECT_EQ(sink_.incarnations.back(), 2u);
  EXPECT_EQ(sink_.plans.back().units[0].slices[0].begin, 0);
  Down(2);
  EXPECT_EQ(Finished(untold).error.code(), absl::StatusCode::kAborted);  // no router retries it
  EXPECT_THAT(std::string(Finished(untold).error.message()), HasSubstr("twice"));
}

TEST_F(EngineCoreTest, ALostGroupFailsWhatDeliveredTokens) {
  Up();
  const Answer told = Submit(10, 10);
  Execute();
  Down();
  EXPECT_EQ(Finished(told).error.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(Finished(told).error.message()), HasSubstr("rank 0: killed"));
}

TEST_F(EngineCoreTest, WaitingIsNoReplay) {
  const Answer waiting = Submit(10, 10);  // no group yet
  Up();
  Down();
  Up(2);
  Execute();
  EXPECT_THAT(Output(waiting), SizeIs(1)) << "its one replay";
}

TEST_F(EngineCoreTest, ResultsOfALostGroupAreIgnored) {
  Up();
  const Answer answer = Submit(10, 10);
  const StepPlan plan = sink_.plans.back();
  Down();
  Up(2);
  StepResult late;
  late.step_id = plan.step_id;
  late.sampled.push_back({plan.units[0].slices[0].sequence_id, {.token = 8}});
  core_.StepDone(1, late, now_);
  EXPECT_THAT(Output(answer), IsEmpty());
}

TEST_F(EngineCoreTest, ImpossibleAnswersOfTheRanksFailTheGroup) {
  Up();
  Submit(10, 10);
  Done({.step_id = 5, .sampled = {}, .errors = {}});
  EXPECT_THAT(sink_.failures, ElementsAre(HasSubstr("step 5")));
  Done({.step_id = 1, .sampled = {}, .errors = {}});
  EXPECT_THAT(sink_.failures.back(), HasSubstr("no token"));
  Down();
  Up(2);
  Execute(1000);
  EXPECT_THAT(sink_.failures.back(), HasSubstr("vocabulary 1000"));
}

TEST_F(EngineCoreTest, RejectsWhenTheLineIsFull) {
  Up(1, 8);  // 2,048 tokens
  Submit(1500, 500);
  Submit(1500, 500);
  Submit(1500, 500);
  const Answer rejected = Submit(10, 10);
  ASSERT_THAT(Only<RejectedEvent>(rejected), SizeIs(1));
  EXPECT_GT(Only<RejectedEvent>(rejected)[0].predicted_wait_seconds, 0);
  EXPECT_OK(*rejected.log->Read(1).end);
  EXPECT_EQ(board_.Get().waiting_requests, 2);
}

TEST_F(EngineCoreTest, WhatCanNeverFitEndsWithAStatus) {
  Up();
  const Answer answer = Submit(9'999, 2);
  EXPECT_THAT(Events(answer), IsEmpty());
  EXPECT_EQ(answer.log->Read(0).end->code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(EngineCoreTest, AnIdThatRunsIsRefused) {
  Up();
  const Answer first = Submit(10, 10);
  Request again = MakeRequest(10, 10);
  again.id = first.id;
  const Answer second = Submit(std::move(again));
  EXPECT_EQ(second.log->Read(0).end->code(), absl::StatusCode::kAlreadyExists);
  EXPECT_FALSE(first.log->closed());
}

TEST_F(EngineCoreTest, WithoutAReaderARequestIsCancelled) {
  Up();
  const Answer answer = Submit(5000, 10);
  answer.log->RemoveReader(answer.reader.get());
  core_.ReaderLeft(answer.id, now_);
  EXPECT_EQ(Finished(answer).reason, FinishReason::kCancelled);
}

TEST_F(EngineCoreTest, ADetachedRequestRunsOnAndKeepsItsEvents) {
  Up();
  Request request = MakeRequest(10, 2);
  request.detach_ttl = absl::Seconds(60);
  const Answer answer = Submit(std::move(request));
  answer.log->RemoveReader(answer.reader.get());
  core_.ReaderLeft(answer.id, now_);
  Execute(7);
  Pass(absl::Seconds(59));
  Execute(8);
  EXPECT_EQ(Finished(answer).reason, FinishReason::kLength);
  Pass(absl::Seconds(59));
  EXPECT_NE(requests_.Find(answer.id), nullptr) << "kept 60 s from its end";
  Pass(absl::Seconds(1));
  EXPECT_EQ(requests_.Find(answer.id), nullptr);
}

TEST_F(EngineCoreTest, ADetachedRequestIsCancelledWhenNobodyComesBack) {
  Up();
  Request request = MakeRequest(10, 1000);
  request.detach_ttl = absl::Seconds(60);
  const Answer answer = Submit(std::move(request));
  Execute(7);
  answer.log->RemoveReader(answer.reader.get());
  core_.ReaderLeft(answer.id, now_);
  Pass(absl::Seconds(60));
  EXPECT_EQ(Finished(answer).reason, FinishReason::kCancelled);
  EXPECT_EQ(requests_.Find(answer.id), nullptr);
}

TEST_F(EngineCoreTest, AReaderWhoComesBackKeepsItAlive) {
  Up();
  Request request = MakeRequest(10, 1000);
  request.detach_ttl = absl::Seconds(60);
  const Answer answer = Submit(std::move(request));
  answer.log->RemoveReader(answer.reader.get());
  core_.ReaderLeft(answer.id, now_);
  answer.log->AddReader(answer.reader);
  Pass(absl::Seconds(100));
  EXPECT_FALSE(answer.log->closed());
}

TEST_F(EngineCoreTest, DrainingRejectsNewAndFinishesOld) {
  Up();
  const Answer old = Submit(10, 1);
  core_.Drain(now_ + absl::Seconds(30));
  const Answer fresh = Submit(10, 1);
  EXPECT_THAT(Only<RejectedEvent>(fresh), SizeIs(1));
  EXPECT_TRUE(board_.Get().draining);
  Execute();
  EXPECT_EQ(Finished(old).reason, FinishReason::kLength);
}

TEST_F(EngineCoreTest, ADrainsDeadlineFailsWhatStillRuns) {
  Up();
  const Answer old = Submit(10, 1000);
  core_.Drain(now_ + absl::Seconds(30));
  Pass(absl::Seconds(30));
  EXPECT_EQ(Finished(old).error.code(), absl::StatusCode::kUnavailable);
}

TEST_F(EngineCoreTest, TheLoadTellsWhatIsQueued) {
  Up();
  Submit(1000, 10);
  Load load = board_.Get();
  EXPECT_EQ(load.running_requests, 1);
  EXPECT_EQ(load.queued_prefill_tokens, 1000);
  EXPECT_EQ(load.free_kv_blocks, 100 - 4);
  Execute(5, 0.5);
  load = board_.Get();
  EXPECT_EQ(load.queued_prefill_tokens, 488);
  EXPECT_GT(load.queued_seconds, 0);
}

}  // namespace
}  // namespace longhaul::worker::leader
