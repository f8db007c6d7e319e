// What runs when KV blocks are short, shared and offloaded.
#include "worker/leader/sequence_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>

#include "tests/testing/simulated_ranks.h"
#include "tests/testing/status_matchers.h"
#include "worker/leader/batch_scheduler.h"

namespace longhaul::worker::leader {
namespace {

using ::longhaul::testing::SimulatedRanks;
using ::longhaul::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr int32_t kLayers = 4;

SchedulerLimits Limits() {
  return {.max_model_len = 20'000,
          .max_num_batched_tokens = 2048,
          .max_num_seqs = 8,
          .max_waiting = 1000,
          .max_waiting_long = 1000,
          .long_prompt_tokens = 32'768,
          .num_layers = kLayers};
}

// A scheduler and the ranks it plans for.
class SequencePoolTest : public ::testing::Test {
 protected:
  void Make(const SchedulerLimits& limits, const KvCapacity& capacity, double failing_moves = 0) {
    limits_ = limits;
    scheduler_ = std::make_unique<BatchScheduler>(limits, PrefixRule{}, rule_);
    ranks_ = std::make_unique<SimulatedRanks>(capacity, kLayers, failing_moves);
    plans_.clear();
    scheduler_->GroupUp(capacity);
  }
  SequencePool& pool() { return scheduler_->pool(); }

  std::vector<TokenId> RandomTokens(int64_t count) {
    std::vector<TokenId> tokens(count);
    for (TokenId& token : tokens) token = static_cast<TokenId>(random_() % 1000);
    return tokens;
  }
  Sequence& Add(std::vector<TokenId> prompt, int32_t max_tokens, int32_t priority = 0) {
    Request request;
    request.id = {.high = 1, .low = ++requests_};
    request.prompt = std::move(prompt);
    request.stopping.max_tokens = max_tokens;
    request.priority = priority;
    Sequence& sequence = pool().Enqueue(std::move(request));
    order_.push_back(sequence.order);
    return sequence;
  }
  // Plans and, when no more can be in flight, executes and retires the oldest. Returns whether
  // anything happened.
  bool Step(const CostCoefficients& cost = {}) {
    bool planned = false;
    preemptions_ += static_cast<int64_t>(pool().TakePreempted().size());
    while (std::optional<StepPlan> plan = scheduler_->Next(cost)) {
      plans_.push_back(*std::move(plan));
      planned = true;
    }
    if (plans_.empty()) return planned;
    const StepPlan plan = std::move(plans_.front());
    plans_.erase(plans_.begin());
    const absl::StatusOr<StepResult> result = ranks_->Execute(plan);
    if (!result.ok()) {
      ADD_FAILURE() << result.status();
      return false;
    }
    const PlannedStep step = *scheduler_->Retire(plan.step_id, result->failed_moves);
    for (const PlannedSlice& slice : step.slices) {
      if (slice.sequence == nullptr || !slice.completes) continue;
      Sequence& s = *slice.sequence;
      if (slice.sample) {
        const auto token = std::ranges::find_if(
            result->sampled, [&s](const SampledToken& t) { return t.sequence_id == s.id; });
        s.output.push_back(token->token.token);
      }
      if (static_cast<int32_t>(s.output.size()) == s.request.stopping.max_tokens &&
          s.processed_tokens >= s.prompt_tokens()) {
        answers_[s.request.id.low] = s.output;
        cached_[s.request.id.low] = s.cached_prompt_tokens;
        EXPECT_THAT(s.output, ElementsAreArray(SimulatedRanks::Answer(
                                  s.request.prompt, s.request.stopping.max_tokens)));
        scheduler_->End(s);
      }
    }
    return true;
  }
  void RunAll(const CostCoefficients& cost = {}) {
    while (Step(cost)) {
    }
    EXPECT_THAT(pool().running(), IsEmpty());
    EXPECT_THAT(pool().waiting(), IsEmpty());
    EXPECT_EQ(pool().num_available(), pool().cache().num_blocks());
    EXPECT_EQ(ranks_->num_sequences(), 0u);
  }

  const StopRule rule_{{}};
  SchedulerLimits limits_;
  std::mt19937 random_{std::random_device{}()};
  uint64_t requests_ = 0;
  std::vector<uint64_t> order_;
  std::unique_ptr<BatchScheduler> scheduler_;
  std::unique_ptr<SimulatedRanks> ranks_;
  std::vector<StepPlan> plans_;
  std::map<uint64_t, std::vector<TokenId>> answers_;
  std::map<uint64_t, int64_t> cached_;
  int64_t preemptions_ = 0;
};

TEST_F(SequencePoolTest, ASecondPromptTakesTheFirstOnesBlocks) {
  Make(Limits(), {.blocks = 100});
  const std::vector<TokenId> prompt = RandomTokens(5000);
  Add(prompt, 3);
  RunAll();
  EXPECT_EQ(ranks_->rows_run(), 5002);
  Sequence& again = Add(prompt, 3);
  EXPECT_EQ(again.cached_tokens, 19 * 256);
  RunAll();
  EXPECT_EQ(ranks_->rows_run(), 5002 + 5002 - 19 * 256);
  EXPECT_EQ(cached_[2], 19 * 256);
}

TEST_F(SequencePoolTest, TheLastTokenIsRunThoughAllIsCached) {
  Make(Limits(), {.blocks = 100});
  const std::vector<TokenId> prompt = RandomTokens(1024);
  Add(prompt, 1);
  RunAll();
  EXPECT_EQ(Add(prompt, 1).cached_tokens, 768);
  RunAll();
}

TEST_F(SequencePoolTest, ATurnOfAConversationTakesPromptAndAnswerOfTheOneBefore) {
  Make(Limits(), {.blocks = 100});
  std::vector<TokenId> conversation = RandomTokens(700);
  for (int turn = 0; turn < 5; ++turn) {
    Sequence& sequence = Add(conversation, 300);
    if (turn > 0) {
      EXPECT_GE(sequence.cached_tokens,
                static_cast<int64_t>(conversation.size()) - 40 - 2 * kKvBlockTokens);
    }
    RunAll();
    const std::vector<TokenId>& answer = answers_[requests_];
    conversation.insert(conversation.end(), answer.begin(), answer.end());
    const std::vector<TokenId> question = RandomTokens(40);
    conversation.insert(conversation.end(), question.begin(), question.end());
  }
}

TEST_F(SequencePoolTest, ACancelledPrefillGoesOnFromItsFinishedBlocks) {
  Make(Limits(), {.blocks = 100});
  const std::vector<TokenId> prompt = RandomTokens(10'000);
  Sequence& cancelled = Add(prompt, 3);
  Step();
  Step();
  scheduler_->End(cancelled);
  RunAll();
  EXPECT_EQ(Add(prompt, 3).cached_tokens, 4096);
  RunAll();
}

// As with a request of several choices, or several questions about one document.
TEST_F(SequencePoolTest, WhatSeveralHaveInCommonIsComputedOnce) {
  for (const int32_t stages : {1, 2, 4}) {
    SchedulerLimits limits = Limits();
    limits.num_stages = limits.max_plans_in_flight = stages;
    Make(limits, {.blocks = 200});
    const std::vector<TokenId> document = RandomTokens(6000);
    for (int i = 0; i < 5; ++i) {
      std::vector<TokenId> prompt = document;
      const std::vector<TokenId> question = RandomTokens(20 + 100 * i);
      prompt.insert(prompt.end(), question.begin(), question.end());
      Add(std::move(prompt), 3);
    }
    Add(RandomTokens(3000), 2);  // does not wait with them
    RunAll();
    EXPECT_LT(ranks_->rows_run(), 6000 + 3000 + 5 * (112 + 420 + 3) + 2);
  }
}

TEST_F(SequencePoolTest, NobodyWaitsForACancelledOne) {
  Make(Limits(), {.blocks = 200});
  const std::vector<TokenId> document = RandomTokens(9000);
  Sequence& first = Add(document, 3);
  Add(document, 3);
  Step();
  scheduler_->End(first);
  RunAll();
  EXPECT_EQ(ranks_->rows_run(), 9002);
}

TEST_F(SequencePoolTest, ATenantsBlocksAreItsOwn) {
  Make(Limits(), {.blocks = 100});
  const std::vector<TokenId> prompt = RandomTokens(1000);
  for (const std::string& salt : {std::string(16, 'a'), std::string(16, 'b'), std::string()}) {
    Request request;
    request.id = {.high = 1, .low = ++requests_};
    request.prompt = prompt;
    request.stopping.max_tokens = 1;
    request.tenant_salt = salt;
    EXPECT_EQ(pool().Enqueue(std::move(request)).cached_tokens, 0);
    RunAll();
  }
}

TEST_F(SequencePoolTest, APromptWhoseLogprobsAreAskedForTakesNothing) {
  Make(Limits(), {.blocks = 100});
  const std::vector<TokenId> prompt = RandomTokens(1000);
  Add(prompt, 1);
  RunAll();
  Request request;
  request.id = {.high = 1, .low = ++requests_};
  request.prompt = prompt;
  request.stopping.max_tokens = 1;
  request.sampling.prompt_logprobs = 0;
  EXPECT_EQ(pool().Enqueue(std::move(request)).cached_tokens, 0);
}

TEST_F(SequencePoolTest, AGrowingSequencePreemptsTheLastOne) {
  Make(Limits(), {.blocks = 10});
  Sequence& first = Add(RandomTokens(1000), 600);   // 4 blocks, 7 in the end
  Sequence& second = Add(RandomTokens(1000), 600);  // the same
  while (second.preemptions == 0) ASSERT_TRUE(Step());
  EXPECT_EQ(first.preemptions, 0);
  EXPECT_FALSE(second.output.empty());
  EXPECT_THAT(pool().waiting(), ElementsAre(&second));
  RunAll();
  EXPECT_THAT(answers_, SizeIs(2)) << "both ended, and RunAll has compared their tokens";
  EXPECT_GT(preemptions_, 0);
}

TEST_F(SequencePoolTest, WhatCouldNeverRunNamesTheNumberToChange) {
  Make(Limits(), {.blocks = 10});
  EXPECT_THAT(pool().CheckFits(19'000, 1'001),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("20000 (--max-model-len)")));
  EXPECT_THAT(pool().CheckFits(2560, 1),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--kv-cache-gib")));
  EXPECT_OK(pool().CheckFits(2559, 1));
  Add(RandomTokens(2000), 560);
  RunAll();
}

TEST_F(SequencePoolTest, WhatWentToTheHostComesBack) {
  Make(Limits(), {.blocks = 30, .host_slots = 100});
  const std::vector<TokenId> prompt = RandomTokens(5000);
  Add(prompt, 2);
  RunAll();
  Add(RandomTokens(7000), 2);  // pushes it out
  RunAll();
  const int64_t before = ranks_->rows_run();
  Add(prompt, 2);
  RunAll();
  EXPECT_LT(ranks_->rows_run() - before, 2 * kKvBlockTokens);
  EXPECT_GT(ranks_->restored_blocks(), 10);
  EXPECT_GE(cached_[3], 4608);
}

// Whatever comes: every answer is the one that its prompt has alone, every block comes back, and
// plans keep the ranks' rules (SimulatedRanks checks both).
TEST_F(SequencePoolTest, RandomLoadsAnswerAsIfAlone) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(::testing::Message() << "seed=" << seed);
  random_.seed(seed);
  int64_t restored = 0;
  int32_t parts = 0;
  for (int round = 0; round < 16; ++round) {
    SchedulerLimits limits = Limits();
    limits.num_stages = 1 << (round % 3);
    limits.max_plans_in_flight = limits.num_stages + static_cast<int32_t>(random_() % 2);
    limits.max_num_batched_tokens = 264 + static_cast<int32_t>(random_() % 1024);
    limits.step_target_seconds = 0.2;
    limits.max_step_seconds = 0.5;
    // Long answers in few blocks, in every third round.
    const bool short_of_blocks = round % 3 == 2;
    KvCapacity capacity = {.blocks = 16};
    if (!short_of_blocks) capacity.blocks += static_cast<int32_t>(random_() % 20);
    if (round % 2 == 1) capacity.host_slots = static_cast<int32_t>(random_() % 60);
    if (round % 4 == 3) capacity.disk_slots = static_cast<int32_t>(random_() % 200);
    Make(limits, capacity, round % 8 == 7 ? 0.1 : 0);
    SCOPED_TRACE(::testing::Message()
                 << "round " << round << ": stages " << limits.num_stages << ", plans "
                 << limits.max_plans_in_flight << ", blocks " << capacity.blocks << ", host "
                 << capacity.host_slots << ", disk " << capacity.disk_slots);
    // Free, cheap, or so slow that a block must be cut between layers.
    const CostCoefficients cost = {.c = 0.001,
                                   .b = round % 3 == 0   ? 0
                                        : round % 3 == 1 ? 1e-4
                                                         : 2e-3};
    const std::vector<TokenId> common = RandomTokens(4000);
    int to_add = 40;
    while (to_add > 0 || !pool().running().empty() || !pool().waiting().empty()) {
      if (to_add > 0 && random_() % 8 == 0) {
        const double log_length =
            static_cast<double>(random_() % 1000) / 1000 * std::log(256.0 * 15);
        std::vector<TokenId> prompt;
        if (random_() % 2 == 0) prompt.assign(common.begin(), common.begin() + random_() % 3000);
        const std::vector<TokenId> own =
            RandomTokens(1 + static_cast<int64_t>(std::exp(log_length)) / 2);
        prompt.insert(prompt.end(), own.begin(), own.end());
        const auto max_tokens = static_cast<int32_t>(random_() % (short_of_blocks ? 2000 : 300));
        if (pool().CheckFits(static_cast<int64_t>(prompt.size()), max_tokens).ok()) {
          Add(std::move(prompt), max_tokens, static_cast<int32_t>(random_() % 2));
        }
        --to_add;
      }
      Step(cost);
      if (HasFailure()) return;
      const std::vector<Sequence*> running = pool().running();
      for (Sequence* s : running) {
        if (random_() % 2000 == 0) scheduler_->End(*s);
      }
    }
    RunAll(cost);
    restored += ranks_->restored_blocks();
    parts = std::max(parts, ranks_->most_layers_cut());
  }
  EXPECT_GT(preemptions_, 0);
  EXPECT_GT(restored, 0);
  EXPECT_EQ(parts, kLayers);
}

}  // namespace
}  // namespace longhaul::worker::leader
