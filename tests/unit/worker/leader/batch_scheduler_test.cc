#include "worker/leader/batch_scheduler.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <random>
#include <set>

#include "tests/testing/status_matchers.h"

namespace longhaul::worker::leader {
namespace {

using ::longhaul::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr SchedulerLimits kLimits = {.max_model_len = 100'000,
                                     .max_num_batched_tokens = 1024,
                                     .max_num_seqs = 4,
                                     .max_waiting = 3,
                                     .max_waiting_long = 1,
                                     .long_prompt_tokens = 10'000,
                                     .num_layers = 2,
                                     .max_plans_in_flight = 1,
                                     .prefix_caching = false};

// A scheduler with ranks that sample the token 1000 + position.
class BatchSchedulerTest : public ::testing::Test {
 protected:
  void Make(SchedulerLimits limits, int32_t num_blocks) {
    scheduler_ = std::make_unique<BatchScheduler>(limits, PrefixRule{}, rule_);
    scheduler_->GroupUp({.blocks = num_blocks});
  }
  Sequence& Add(int64_t prompt_tokens, int32_t max_tokens, int32_t priority = 0) {
    Request request;
    request.id = {.high = 1, .low = ++requests_};
    request.prompt.resize(prompt_tokens);
    std::iota(request.prompt.begin(), request.prompt.end(), 0);
    request.stopping.max_tokens = max_tokens;
    request.priority = priority;
    return scheduler_->pool().Enqueue(std::move(request));
  }
  Sequence& AddScored(int64_t prompt_tokens) {
    Request request;
    request.id = {.high = 1, .low = ++requests_};
    request.prompt.resize(prompt_tokens);
    std::iota(request.prompt.begin(), request.prompt.end(), 0);
    request.stopping.max_tokens = 5;
    request.sampling.prompt_logprobs = 2;
    return scheduler_->pool().Enqueue(std::move(request));
  }
  StepPlan Plan() {
    std::optional<StepPlan> plan = scheduler_->Next();
    EXPECT_TRUE(plan.has_value());
    return plan.value_or(StepPlan{});
  }
  // Retires the oldest plan; every sample becomes output.
  void Retire() {
    absl::StatusOr<PlannedStep> step = scheduler_->Retire(scheduler_->in_flight().front().step_id);
    ASSERT_OK(step);
    for (const PlannedSlice& slice : step->slices) {
      if (slice.sequence == nullptr || !slice.sample) continue;
      slice.sequence->output.push_back(static_cast<TokenId>(1000 + slice.begin + slice.count));
    }
  }
  static std::vector<int64_t> Counts(const StepPlan& plan) {
    std::vector<int64_t> counts;
    for (const Unit& unit : plan.units) {
      for (const Slice& slice : unit.slices) {
        counts.push_back(static_cast<int64_t>(slice.token_ids.size()));
      }
    }
    return counts;
  }

  const StopRule rule_{{2042}};
  uint64_t requests_ = 0;
  std::unique_ptr<BatchScheduler> scheduler_;
};

TEST_F(BatchSchedulerTest, PrefillsInChunksThenDecodesOneTokenAStep) {
  Make(kLimits, 100);
  Add(1500, 3);
  StepPlan plan = Plan();
  EXPECT_EQ(plan.step_id, 1u);
  ASSERT_THAT(plan.starts, SizeIs(1));
  EXPECT_EQ(plan.starts[0].prompt_tokens, 1500);
  ASSERT_THAT(Counts(plan), ElementsAre(1024));
  EXPECT_FALSE(plan.units[0].slices[0].sample);
  EXPECT_EQ(plan.units[0].layer_begin, 0);
  EXPECT_EQ(plan.units[0].layer_end, 2);
  EXPECT_THAT(plan.units[0].slices[0].new_block_ids, SizeIs(4));
  EXPECT_EQ(scheduler_->Next(), std::nullopt) << "one plan in flight is the limit";
  Retire();

  plan = Plan();
  EXPECT_EQ(plan.step_id, 2u);
  EXPECT_THAT(plan.starts, IsEmpty());
  const Slice& rest = plan.units[0].slices[0];
  EXPECT_EQ(rest.begin, 1024);
  EXPECT_EQ(rest.token_ids.front(), 1024);
  EXPECT_THAT(rest.token_ids, SizeIs(476));
  EXPECT_EQ(rest.first_table_entry, 4);
  EXPECT_THAT(rest.new_block_ids, SizeIs(2));
  EXPECT_TRUE(rest.sample);
  Retire();

  plan = Plan();
  const Slice& decode = plan.units[0].slices[0];
  EXPECT_EQ(decode.begin, 1500);
  EXPECT_THAT(decode.token_ids, ElementsAre(2500)) << "what was sampled last";
  EXPECT_THAT(decode.new_block_ids, IsEmpty()) << "position 1500 lies in the sixth block";
  EXPECT_TRUE(decode.sample);
}

TEST_F(BatchSchedulerTest, AChunkNamesTheTokenBehindItWhereLogprobsAreAskedFor) {
  Make(kLimits, 100);
  AddScored(1500);
  StepPlan plan = Plan();
  Add(10, 3);
  EXPECT_EQ(plan.starts[0].sampling.prompt_logprobs, 2);
  ASSERT_THAT(Counts(plan), ElementsAre(1024));
  EXPECT_EQ(plan.units[0].slices[0].next_prompt_token, 1024);
  const PlannedStep& step = scheduler_->in_flight().back();
  EXPECT_TRUE(step.has_prompt_logprobs);
  EXPECT_EQ(step.slices[0].prompt_logprobs, 1024);
  EXPECT_EQ(step.slices[0].sequence_id, plan.units[0].slices[0].sequence_id);
  Retire();
  plan = Plan();
  ASSERT_THAT(Counts(plan), ElementsAre(10, 476));  // the short one passes
  for (const Slice& slice : plan.units[0].slices) {
    EXPECT_EQ(slice.next_prompt_token, std::nullopt) << "the prompt ends";
  }
  EXPECT_EQ(scheduler_->in_flight().back().slices[0].prompt_logprobs, 0) << "asked for none";
  EXPECT_EQ(scheduler_->in_flight().back().slices[1].prompt_logprobs, 475);
  Retire();
  Plan();
  EXPECT_FALSE(scheduler_->in_flight().back().has_prompt_logprobs) << "decodes";
}

TEST_F(BatchSchedulerTest, APromptOfOneTokenAsksForNoLogprobs) {
  Make(kLimits, 100);
  AddScored(1);
  EXPECT_EQ(Plan().units[0].slices[0].next_prompt_token, std::nullopt);
  EXPECT_FALSE(scheduler_->in_flight().back().has_prompt_logprobs);
}

TEST_F(BatchSchedulerTest, AStepAsksForABoundedNumberOfLogprobs) {
  SchedulerLimits limits = kLimits;
  limits.max_num_batched_tokens = 50'000;
  Make(limits, 1000);
  AddScored(10'000);
  AddScored(10'000);
  Add(12'000, 1);
  // 6,384 would be left of 16,384: 24 blocks behind it.
  EXPECT_THAT(Counts(Plan()), ElementsAre(10'000, 6'144, 12'000));
  Retire();
  EXPECT_THAT(Counts(Plan()), ElementsAre(1, 1, 3'856)) << "two decodes and the rest";
}

TEST_F(BatchSchedulerTest, DecodesGoFirstAndPrefillsShareTheRest) {
  Make(kLimits, 1000);
  Add(10, 5);
  Plan();
  Retire();
  Add(500, 5);
  Add(600, 5);
  Add(300, 5);
  // 1024 = 1 decode + 500 + 512 (600 cut at a block) and 11 tokens, in which no block fits.
  const StepPlan plan = Plan();
  EXPECT_THAT(Counts(plan), ElementsAre(1, 500, 512));
  EXPECT_EQ(plan.units[0].slices[0].sequence_id, 1u);
  Retire();
  EXPECT_THAT(Counts(Plan()), ElementsAre(1, 1, 88, 300));
}

TEST_F(BatchSchedulerTest, PrefillOnlySamplesNothing) {
  Make(kLimits, 100);
  Sequence& sequence = Add(300, 0);
  const StepPlan plan = Plan();
  EXPECT_FALSE(plan.units[0].slices[0].sample);
  Retire();
  EXPECT_TRUE(sequence.prefill_only_done());
  EXPECT_EQ(scheduler_->Next(), std::nullopt);
}

TEST_F(BatchSchedulerTest, PromisesTheBlocksOfPrompts) {
  Make(kLimits, 11);
  Add(1024, 2400);  // 4 blocks
  EXPECT_EQ(scheduler_->pool().num_available(), 7);
  Add(1025, 700);  // 5 blocks
  EXPECT_EQ(scheduler_->pool().num_available(), 2);
  EXPECT_EQ(scheduler_->pool().cache().num_available(), 11) << "none is taken before its rows are";
  Add(200, 57);  // 1 block, but then the two would have no room to grow
  EXPECT_THAT(scheduler_->pool().waiting(), SizeIs(1));
  Add(150, 1);  // no shorter than half of the head
  EXPECT_THAT(scheduler_->pool().waiting(), SizeIs(2));
  Plan();
  EXPECT_EQ(scheduler_->pool().cache().num_available(), 7);
}

TEST_F(BatchSchedulerTest, NeverFitsNamesTheNumberToChange) {
  Make(kLimits, 10);
  EXPECT_THAT(scheduler_->pool().CheckFits(99'000, 1'001),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("100000 (--max-model-len)")));
  EXPECT_THAT(scheduler_->pool().CheckFits(2560, 1),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--kv-cache-gib")));
  EXPECT_OK(scheduler_->pool().CheckFits(2559, 1));
}

TEST_F(BatchSchedulerTest, TheLineIsBounded) {
  Make(kLimits, 100);
  for (int i = 0; i < 4; ++i) Add(10, 10);  // all that may run
  EXPECT_OK(scheduler_->pool().CheckRoom(10'000));
  Add(10'000, 10);
  EXPECT_THAT(scheduler_->pool().CheckRoom(10'000),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("limit 1")));
  EXPECT_OK(scheduler_->pool().CheckRoom(9'999));
  Add(10, 10);
  Add(10, 10);
  EXPECT_THAT(scheduler_->pool().CheckRoom(10),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("3 requests wait")));
}

TEST_F(BatchSchedulerTest, ALongJobThatCanStartNeedsNoPlaceInTheLine) {
  Make(kLimits, 200);
  Add(20'000, 10);
  EXPECT_OK(scheduler_->pool().CheckRoom(20'000));
  Add(20'000, 10);
  EXPECT_THAT(scheduler_->pool().running(), SizeIs(2));
}

TEST_F(BatchSchedulerTest, PriorityThenArrival) {
  SchedulerLimits limits = kLimits;
  limits.max_num_seqs = 1;
  Make(limits, 100);
  Sequence& first = Add(10, 1);
  Sequence& low = Add(10, 1, -5);
  Sequence& normal = Add(10, 1);
  Sequence& high = Add(10, 1, 5);
  EXPECT_THAT(scheduler_->pool().running(), ElementsAre(&first)) << "what runs is not pushed out";
  EXPECT_THAT(scheduler_->pool().waiting(), ElementsAre(&high, &normal, &low));
  scheduler_->End(first);
  EXPECT_THAT(scheduler_->pool().running(), ElementsAre(&high));
}

TEST_F(BatchSchedulerTest, BlocksDropWhenTheLastPlanThatNamesASequenceRetires) {
  SchedulerLimits limits = kLimits;
  limits.max_plans_in_flight = 2;
  Make(limits, 100);
  Sequence& sequence = Add(5000, 10);
  const SequenceId id = sequence.id;
  Plan();
  Plan();
  scheduler_->End(sequence);
  EXPECT_LT(scheduler_->pool().num_available(), 100);
  Retire();
  EXPECT_LT(scheduler_->pool().num_available(), 100) << "the second plan still writes its blocks";
  Retire();
  EXPECT_EQ(scheduler_->pool().num_available(), 100);
  const StepPlan plan = Plan();
  EXPECT_THAT(plan.units, IsEmpty());
  EXPECT_THAT(plan.ends, ElementsAre(id));
  Retire();
  EXPECT_EQ(scheduler_->Next(), std::nullopt);
}

TEST_F(BatchSchedulerTest, EndingWhatNeverRanTellsTheRanksNothing) {
  SchedulerLimits limits = kLimits;
  limits.max_num_seqs = 1;
  Make(limits, 100);
  Sequence& planned = Add(10, 1);
  Sequence& waiting = Add(10, 1);
  scheduler_->End(waiting);
  scheduler_->End(planned);  // running, but in no plan yet
  EXPECT_EQ(scheduler_->Next(), std::nullopt);
  EXPECT_EQ(scheduler_->pool().num_available(), 100);
}

TEST_F(BatchSchedulerTest, SeveralPlansInFlightWaitForNoTokenUntilThePromptEnds) {
  SchedulerLimits limits = kLimits;
  limits.max_plans_in_flight = 3;
  Make(limits, 100);
  Add(2500, 10);
  EXPECT_THAT(Counts(Plan()), ElementsAre(1024));
  EXPECT_THAT(Counts(Plan()), ElementsAre(1024));
  EXPECT_THAT(Counts(Plan()), ElementsAre(452));
  Retire();
  EXPECT_EQ(scheduler_->Next(), std::nullopt) << "decode needs the token of the third plan";
  Retire();
  Retire();
  EXPECT_THAT(Counts(Plan()), ElementsAre(1));
}

TEST_F(BatchSchedulerTest, StepsRetireInOrder) {
  Make(kLimits, 100);
  Add(10, 10);
  Plan();
  EXPECT_THAT(scheduler_->Retire(2),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("oldest in flight is 1")));
  EXPECT_OK(scheduler_->Retire(1));
  EXPECT_THAT(scheduler_->Retire(1), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("0")));
}

TEST_F(BatchSchedulerTest, AfterALostGroupRunningRequestsStartAgainInTheirOldPlace) {
  SchedulerLimits limits = kLimits;
  limits.max_num_seqs = 2;
  Make(limits, 100);
  Sequence& a = Add(2000, 10);
  Sequence& b = Add(1500, 10);
  Sequence& c = Add(1500, 10);
  Plan();
  Retire();
  Plan();
  EXPECT_THAT(scheduler_->GroupDown(), ElementsAre(&a, &b));
  EXPECT_THAT(scheduler_->pool().waiting(), ElementsAre(&a, &b, &c));
  EXPECT_EQ(scheduler_->Next(), std::nullopt);
  b.output.clear();
  scheduler_->GroupUp({.blocks = 100});
  EXPECT_THAT(scheduler_->pool().running(), ElementsAre(&a, &b));
  const StepPlan plan = Plan();
  EXPECT_EQ(plan.step_id, 1u);
  EXPECT_THAT(plan.starts, SizeIs(1)) << "1024 tokens of the first request fill the unit";
  EXPECT_EQ(plan.units[0].slices[0].begin, 0);
  EXPECT_EQ(plan.units[0].slices[0].first_table_entry, 0);
}

// Any run, with random ends, keeps the invariants that the ranks rely on and frees every block.
TEST_F(BatchSchedulerTest, RandomRequestsLeaveEveryBlockFree) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(::testing::Message() << "seed=" << seed);
  std::mt19937 random(seed);
  for (const int32_t depth : {1, 2, 4}) {
    SchedulerLimits limits = kLimits;
    limits.max_plans_in_flight = depth;
    limits.max_waiting = 1000;
    limits.max_waiting_long = 1000;
    Make(limits, 64);
    std::map<SequenceId, int64_t> next_position;        // as a rank sees it
    std::map<SequenceId, std::vector<BlockId>> tables;  // block tables of the ranks
    int to_add = 100;
    while (to_add > 0 || !scheduler_->pool().running().empty() ||
           !scheduler_->in_flight().empty()) {
      if (to_add > 0 && random() % 2 == 0) {
        const int64_t prompt = 1 + random() % 4000;
        const auto max_tokens = static_cast<int32_t>(random() % 20);
        ASSERT_OK(scheduler_->pool().CheckFits(prompt, max_tokens));
        Add(prompt, max_tokens);
        --to_add;
      }
      if (std::optional<StepPlan> plan = scheduler_->Next()) {
        for (const SequenceStart& start : plan->starts) {
          ASSERT_TRUE(next_position.emplace(start.sequence_id, 0).second);
        }
        int64_t tokens = 0;
        for (const Unit& unit : plan->units) {
          ASSERT_FALSE(unit.slices.empty());
          for (const Slice& slice : unit.slices) {
            ASSERT_EQ(slice.begin, next_position.at(slice.sequence_id));
            next_position[slice.sequence_id] += static_cast<int64_t>(slice.token_ids.size());
            tokens += static_cast<int64_t>(slice.token_ids.size());
            std::vector<BlockId>& table = tables[slice.sequence_id];
            ASSERT_EQ(slice.first_table_entry, static_cast<int32_t>(table.size()));
            table.insert(table.end(), slice.new_block_ids.begin(), slice.new_block_ids.end());
            ASSERT_GE(static_cast<int64_t>(table.size()) * kKvBlockTokens,
                      next_position[slice.sequence_id]);
          }
        }
        ASSERT_LE(tokens, kLimits.max_num_batched_tokens);
        for (const SequenceId id : plan->ends) {
          ASSERT_EQ(next_position.erase(id), 1u);
          tables.erase(id);
        }
      }
      if (!scheduler_->in_flight().empty() &&
          (random() % 2 == 0 || static_cast<int32_t>(scheduler_->in_flight().size()) == depth)) {
        Retire();
      }
      const std::vector<Sequence*> running = scheduler_->pool().running();
      for (Sequence* s : running) {
        const bool done =
            static_cast<int32_t>(s->output.size()) >= s->request.stopping.max_tokens &&
            s->processed_tokens >= s->prompt_tokens();
        if (done || random() % 200 == 0) scheduler_->End(*s);
      }
    }
    while (scheduler_->Next()) Retire();
    EXPECT_EQ(scheduler_->pool().num_available(), 64) << "depth=" << depth;
    EXPECT_THAT(scheduler_->pool().waiting(), IsEmpty());
  }
}

}  // namespace
}  // namespace longhaul::worker::leader
