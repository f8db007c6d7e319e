#include "worker/leader/steps_in_flight.h"

#include <gtest/gtest.h>

#include <thread>

#include "tests/testing/jumping_clock.h"
#include "tests/testing/status_matchers.h"

namespace longhaul::worker::leader {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using testing::StatusIs;

class RecordingLink final : public RankLink {
 public:
  void SendStart(const RankPlace&) override {}
  void SendPlan(const StepPlan& plan) override { steps.push_back(plan.step_id); }
  void SendRendezvous(const RendezvousEntry&) override {}
  void SendDumpStacks() override {}
  void SendAbort(const std::string&) override {}
  void Close(const absl::Status&) override {}

  std::vector<StepId> steps;
};

class RecordingListener final : public GroupListener {
 public:
  void OnGroupUp(uint64_t, const GroupFacts&) override {}
  void OnStepDone(uint64_t incarnation, StepResult result) override {
    incarnations.push_back(incarnation);
    results.push_back(std::move(result));
  }
  void OnStepStuck(uint64_t) override {}
  void OnGroupDown(uint64_t, absl::Status) override {}

  std::vector<uint64_t> incarnations;
  std::vector<StepResult> results;
};

// Two stages of one rank each.
class StepsInFlightTest : public ::testing::Test {
 protected:
  void Open(uint64_t incarnation = 7) {
    steps_.Open(incarnation, {links_[0], links_[1]}, listener_);
  }
  void Send(StepId step, uint64_t incarnation = 7) {
    steps_.Send(incarnation, {.step_id = step}, std::nullopt);
  }
  absl::Status Done(int rank, StepResult result) {
    return steps_.Acknowledge(*links_[rank], std::move(result));
  }

  testing::JumpingClock clock_;
  RecordingListener listener_;
  const std::vector<std::shared_ptr<RecordingLink>> links_ = {std::make_shared<RecordingLink>(),
                                                              std::make_shared<RecordingLink>()};
  StepsInFlight steps_{*GroupShape::Make({.tensor_parallel_size = 1, .pipeline_parallel_size = 2},
                                         {.num_layers = 2, .num_kv_heads = 1}),
                       clock_};
};

TEST_F(StepsInFlightTest, TellsAStepWhenAllRanksHaveDoneItAndMergesTheirAnswers) {
  Open();
  Send(1);
  EXPECT_THAT(links_[0]->steps, ElementsAre(1u));
  EXPECT_THAT(links_[1]->steps, ElementsAre(1u));
  EXPECT_OK(Done(1, {.step_id = 1,
                     .seconds = 0.5,
                     .sampled = {{.sequence_id = 3, .token = {.token = 9}}},
                     .failed_moves = {0, 2}}));
  EXPECT_THAT(listener_.results, IsEmpty());
  EXPECT_OK(Done(0, {.step_id = 1, .seconds = 0.25, .failed_moves = {1, 2}}));
  ASSERT_THAT(listener_.results, SizeIs(1));
  const StepResult& result = listener_.results[0];
  EXPECT_EQ(listener_.incarnations[0], 7u);
  EXPECT_EQ(result.seconds, 0.5);
  EXPECT_THAT(result.stage_seconds, ElementsAre(0.25, 0.5));
  EXPECT_THAT(result.failed_moves, ElementsAre(0, 1, 2));
  ASSERT_THAT(result.sampled, SizeIs(1));
  EXPECT_EQ(result.sampled[0].token.token, 9);
  EXPECT_EQ(steps_.size(), 0u);
}

TEST_F(StepsInFlightTest, TellsStepsInOrder) {
  Open();
  Send(1);
  Send(2);
  EXPECT_OK(Done(0, {.step_id = 1}));
  EXPECT_OK(Done(0, {.step_id = 2}));
  EXPECT_OK(Done(1, {.step_id = 2}));
  EXPECT_THAT(listener_.results, IsEmpty());
  EXPECT_OK(Done(1, {.step_id = 1}));
  ASSERT_THAT(listener_.results, SizeIs(2));
  EXPECT_EQ(listener_.results[0].step_id, 1u);
  EXPECT_EQ(listener_.results[1].step_id, 2u);
}

TEST_F(StepsInFlightTest, RefusesWhatIsNotInFlight) {
  Open();
  Send(1);
  EXPECT_OK(Done(0, {.step_id = 1}));
  EXPECT_THAT(Done(0, {.step_id = 1}),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("step 1 as done twice")));
  EXPECT_THAT(Done(1, {.step_id = 2}),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("not in flight")));
  EXPECT_THAT(Done(1, {.step_id = 0}),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("not in flight")));
  EXPECT_THAT(steps_.Acknowledge(RecordingLink(), {.step_id = 1}),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("not in flight")));
}

TEST_F(StepsInFlightTest, NothingIsSentOrToldUnlessItsIncarnationIsUp) {
  Send(1);
  Open();
  Send(1, /*incarnation=*/6);
  EXPECT_THAT(links_[0]->steps, IsEmpty());
  Send(1);
  steps_.Close();
  Send(2);
  EXPECT_THAT(links_[0]->steps, ElementsAre(1u));
  EXPECT_EQ(Done(0, {.step_id = 1}).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(listener_.results, IsEmpty());
  Open(/*incarnation=*/8);
  Send(1, /*incarnation=*/8);
  EXPECT_THAT(links_[0]->steps, ElementsAre(1u, 1u));
}

TEST_F(StepsInFlightTest, TheHeadIsTheOldestSinceTheOneBeforeItWasDone) {
  Open();
  EXPECT_FALSE(steps_.head().has_value());
  steps_.Send(7, {.step_id = 1}, 0.5);
  Send(2);
  const absl::Time begin = steps_.head()->since;
  EXPECT_EQ(steps_.head()->step_id, 1u);
  EXPECT_EQ(steps_.head()->predicted_seconds, 0.5);
  EXPECT_EQ(steps_.last_answer(1), absl::InfinitePast());
  clock_.Jump(5);
  EXPECT_OK(Done(1, {.step_id = 1}));
  EXPECT_THAT(steps_.head()->acknowledged, ElementsAre(false, true));
  EXPECT_OK(Done(0, {.step_id = 1}));
  EXPECT_EQ(steps_.head()->step_id, 2u);
  EXPECT_EQ(steps_.head()->predicted_seconds, std::nullopt);
  EXPECT_GE(steps_.head()->since, begin + absl::Seconds(5));
  EXPECT_GE(steps_.last_answer(1), begin + absl::Seconds(5));
  const absl::Time since = steps_.head()->since;
  steps_.Forgive(absl::Seconds(3), since + absl::Seconds(10));
  EXPECT_EQ(steps_.head()->since, since + absl::Seconds(3));
  steps_.Forgive(absl::Seconds(9), since + absl::Seconds(10));
  EXPECT_EQ(steps_.head()->since, since + absl::Seconds(10));
}

TEST_F(StepsInFlightTest, RanksAnswerFromThreadsOfTheirOwn) {
  constexpr StepId kSteps = 500;
  Open();
  const auto answer = [this](int rank) {
    for (StepId step = 1; step <= kSteps; ++step) {
      while (!Done(rank, {.step_id = step}).ok()) std::this_thread::yield();  // not sent yet
    }
  };
  std::thread first(answer, 0), second(answer, 1);
  for (StepId step = 1; step <= kSteps; ++step) Send(step);
  first.join();
  second.join();
  ASSERT_THAT(listener_.results, SizeIs(kSteps));
  for (StepId step = 1; step <= kSteps; ++step) {
    EXPECT_EQ(listener_.results[step - 1].step_id, step);
  }
}

}  // namespace
}  // namespace longhaul::worker::leader
