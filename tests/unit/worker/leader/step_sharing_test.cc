// Long prompts and short ones in the same steps: who passes whom, and what a step may take.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>

#include "tests/testing/status_matchers.h"
#include "worker/leader/batch_scheduler.h"

namespace longhaul::worker::leader {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::SizeIs;

constexpr SchedulerLimits kLimits = {.max_model_len = 2'000'000,
                                     .max_num_batched_tokens = 2048,
                                     .max_num_seqs = 64,
                                     .max_waiting = 1000,
                                     .max_waiting_long = 1000,
                                     .long_prompt_tokens = 32'768,
                                     .num_layers = 2,
                                     .max_plans_in_flight = 1,
                                     .prefix_caching = false,
                                     .step_target_seconds = 0.2,
                                     .max_step_seconds = 0.5};
// Of a small model on a CPU: 2,048 tokens behind nothing take 0.12 s, behind 100,000 take 0.94 s.
constexpr CostCoefficients kCost = {.c = 0.01, .g = 0, .b = 5e-5, .a = 2e-9};

class StepSharingTest : public ::testing::Test {
 protected:
  void Make(const SchedulerLimits& limits, int32_t num_blocks) {
    scheduler_ = std::make_unique<BatchScheduler>(limits, PrefixRule{}, rule_);
    scheduler_->GroupUp({.blocks = num_blocks});
  }
  Sequence& Add(int64_t prompt_tokens, int32_t max_tokens = 1, int32_t priority = 0) {
    Request request;
    request.id = {.high = 1, .low = ++requests_};
    request.prompt.assign(static_cast<size_t>(prompt_tokens), 7);
    request.stopping.max_tokens = max_tokens;
    request.priority = priority;
    return scheduler_->pool().Enqueue(std::move(request));
  }
  // Plans and retires a step; ends what has all its tokens. Returns (order, tokens) of its slices.
  std::vector<std::pair<uint64_t, int64_t>> Step(const CostCoefficients& cost = kCost) {
    std::vector<std::pair<uint64_t, int64_t>> counts;
    if (!scheduler_->Next(cost)) return counts;
    predicted_ = PredictSeconds(cost, scheduler_->in_flight().back().shape);
    const PlannedStep step = *scheduler_->Retire(scheduler_->in_flight().front().step_id);
    for (const PlannedSlice& slice : step.slices) {
      if (slice.sequence == nullptr) continue;
      counts.emplace_back(slice.sequence->order, slice.count);
      if (!slice.sample) continue;
      slice.sequence->output.push_back(1);
      const auto tokens = static_cast<int32_t>(slice.sequence->output.size());
      if (tokens == slice.sequence->request.stopping.max_tokens) scheduler_->End(*slice.sequence);
    }
    return counts;
  }

  const StopRule rule_{{2}};
  uint64_t requests_ = 0;
  double predicted_ = 0;  // seconds of the last step
  std::unique_ptr<BatchScheduler> scheduler_;
};

TEST_F(StepSharingTest, AShortPromptPassesALongOneInHalfOfAStep) {
  Make(kLimits, 100'000);
  Add(1'000'000);
  Step({});
  Add(20);
  Add(700);
  Add(600);
  // Half of 2,048 tokens for those who pass, the shortest first, the rest for the first in line.
  EXPECT_THAT(Step({}), ElementsAre(Pair(1, 20), Pair(3, 600), Pair(2, 256), Pair(0, 1024)));
  EXPECT_THAT(Step({}), ElementsAre(Pair(2, 444), Pair(0, 1536)));
}

TEST_F(StepSharingTest, PromptsOfLikeLengthTakeTurns) {
  Make(kLimits, 100'000);
  Add(100'000);
  Add(90'000);
  EXPECT_THAT(Step({}), ElementsAre(Pair(0, 2048)));
}

TEST_F(StepSharingTest, ALowerPriorityPassesNobody) {
  Make(kLimits, 100'000);
  Add(100'000);
  Add(20, 1, /*priority=*/-1);
  EXPECT_THAT(Step({}), ElementsAre(Pair(0, 2048)));
  // Nor is it passed over where the others leave room.
  Add(20, 1, /*priority=*/1);
  EXPECT_THAT(Step({}), ElementsAre(Pair(2, 20), Pair(0, 1792), Pair(1, 20)));
}

TEST_F(StepSharingTest, AStepIsShorterWhileOthersWait) {
  Make(kLimits, 100'000);
  Add(400'000);
  double alone = 0;
  while (scheduler_->pool().running().front()->planned_tokens < 200'000) {
    ASSERT_THAT(Step(), SizeIs(1));
    EXPECT_LE(predicted_, 0.5);
    alone = predicted_;
  }
  EXPECT_GT(alone, 0.25) << "a step has room for more";
  Add(5000, 3);
  while (scheduler_->pool().running().size() == 2) {
    Step();
    EXPECT_LE(predicted_, kLimits.step_target_seconds + 2 * 0.22) << "two blocks are always due";
  }
}

TEST_F(StepSharingTest, TheFirstInLineGetsABlockWhateverItCosts) {
  Make(kLimits, 100'000);
  Add(1'000'000);
  const CostCoefficients slow = {.c = 1, .b = 1};
  EXPECT_THAT(Step(slow), ElementsAre(Pair(0, 256)));
  Add(300);
  Add(200);
  EXPECT_THAT(Step(slow), ElementsAre(Pair(2, 200), Pair(0, 256)));
  EXPECT_THAT(Step(slow), ElementsAre(Pair(1, 256), Pair(0, 256)));
  EXPECT_THAT(Step(slow), ElementsAre(Pair(1, 44), Pair(0, 256)));
}

TEST_F(StepSharingTest, AHeadThatLacksBlocksIsPassedByThoseItDoesNotWaitFor) {
  Make(kLimits, 100);             // of 256 tokens
  Add(15'000, 1);                 // 59 blocks; 41 are free
  Sequence& head = Add(20'000);   // needs 79: waits for the first to end
  Sequence& chat = Add(100, 50);  // 1 block
  EXPECT_TRUE(chat.running);
  EXPECT_FALSE(head.running);
  Sequence& middle = Add(9'900);  // 39 blocks, less than half of the head
  EXPECT_TRUE(middle.running);
  EXPECT_EQ(scheduler_->pool().num_available(), 1);
  Sequence& like = Add(15'000);
  EXPECT_FALSE(like.running);
  EXPECT_THAT(scheduler_->pool().waiting(), ElementsAre(&head, &like));
}

TEST_F(StepSharingTest, AStreamOfShortRequestsDoesNotKeepALongOneWaiting) {
  Make(kLimits, 100);
  Sequence& first = Add(12'000);    // 47 blocks
  Sequence& head = Add(24'000, 1);  // 94 blocks
  std::vector<Sequence*> chats;
  for (int i = 0; i < 20; ++i) chats.push_back(&Add(400, 100));  // 2 blocks each
  EXPECT_EQ(std::ranges::count_if(chats, [](const Sequence* s) { return s->running; }), 20);
  scheduler_->End(first);
  EXPECT_FALSE(head.running);
  // Now it waits for nobody but those who passed it: no further one does.
  Sequence& late = Add(400, 100);
  EXPECT_FALSE(late.running);
  for (Sequence* chat : chats) scheduler_->End(*chat);
  EXPECT_TRUE(head.running);
}

// Whatever comes, steps keep their bounds and everything ends.
TEST_F(StepSharingTest, RandomLoadsKeepTheBoundsAndEnd) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(::testing::Message() << "seed=" << seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 5; ++round) {
    Make(kLimits, 600);
    int to_add = 150;
    int64_t idle = 0;
    while (to_add > 0 || !scheduler_->pool().running().empty() ||
           !scheduler_->pool().waiting().empty()) {
      if (to_add > 0 && random() % 4 == 0) {
        const double log_length = static_cast<double>(random() % 1000) / 1000 * std::log(100'000);
        Add(1 + static_cast<int64_t>(std::exp(log_length)), 1 + static_cast<int32_t>(random() % 8),
            static_cast<int32_t>(random() % 3));
        --to_add;
      }
      const bool others =
          scheduler_->pool().running().size() > 1 || !scheduler_->pool().waiting().empty();
      const auto counts = Step();
      int64_t tokens = 0;
      std::map<uint64_t, int> slices;
      for (const auto& [order, count] : counts) {
        tokens += count;
        ASSERT_EQ(++slices[order], 1);
      }
      ASSERT_LE(tokens, kLimits.max_num_batched_tokens);
      // Two blocks behind 100,000 tokens are due at any time; decodes are not held back.
      const double due = 2 * 256 * (kCost.b + 2 * kCost.a * 100'000) + 64 * 2 * kCost.a * 100'000;
      ASSERT_LE(predicted_,
                (others ? kLimits.step_target_seconds : kLimits.max_step_seconds) + due + 0.02);
      idle = counts.empty() ? idle + 1 : 0;
      ASSERT_LT(idle, 1000) << "nothing moves any more";
    }
    EXPECT_EQ(scheduler_->pool().num_available(), 600);
  }
}

TEST(TokensWithin, IsTheInverseOfThePrediction) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(::testing::Message() << "seed=" << seed);
  std::mt19937 random(seed);
  std::uniform_real_distribution<double> unit(0, 1);
  for (int i = 0; i < 1000; ++i) {
    const CostCoefficients cost = {.c = unit(random),
                                   .g = random() % 2 ? 1e-8 * unit(random) : 0,
                                   .b = random() % 4 ? 1e-4 * unit(random) : 0,
                                   .a = random() % 4 ? 1e-9 * unit(random) : 0};
    const auto history = static_cast<int64_t>(random() % 1'000'000);
    const double seconds = unit(random);
    const int64_t tokens = TokensWithin(cost, history, seconds);
    const auto added = [&](int64_t count) {
      UnitShape shape;
      shape.Add(history, count);
      return PredictSeconds(cost, shape) - cost.c;
    };
    if (tokens > 1'000'000'000) continue;  // as good as free
    if (tokens > 0) {
      EXPECT_LE(added(tokens), seconds * (1 + 1e-9));
    }
    EXPECT_GT(added(tokens + 1), seconds * (1 - 1e-9));
  }
  EXPECT_EQ(TokensWithin({}, 5, 0.1), std::numeric_limits<int64_t>::max());
  EXPECT_EQ(TokensWithin({}, 5, -0.1), 0);
  EXPECT_EQ(TokensWithin({.b = 1, .a = 1}, 5, std::numeric_limits<double>::infinity()),
            std::numeric_limits<int64_t>::max());
}

}  // namespace
}  // namespace longhaul::worker::leader
