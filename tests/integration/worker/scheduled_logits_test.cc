// An answer does not depend on how the scheduler ran it: the logits of every sampled token are the
// same bits for a prompt alone in plain chunks and for the same prompt among others, cut into any
// chunks and between layers, behind a cached prefix, preempted and resumed, on any number of
// pipeline stages.
#include <algorithm>
#include <cmath>
#include <iostream>
#include <map>
#include <numeric>

#include "tests/testing/kernel_testing.h"
#include "tests/testing/paths.h"
#include "tests/testing/rank_group.h"
#include "tests/testing/status_matchers.h"
#include "worker/leader/batch_scheduler.h"

namespace longhaul::testing {
namespace {

using worker::StepPlan;
using worker::StepResult;
using worker::leader::BatchScheduler;
using worker::leader::PlannedSlice;
using worker::leader::PlannedStep;
using worker::leader::PrefixRule;
using worker::leader::Request;
using worker::leader::SchedulerLimits;
using worker::leader::Sequence;
using worker::leader::StopRule;

constexpr int32_t kLayers = 4;  // of the demo model

struct Prompt {
  std::vector<TokenId> tokens;
  int32_t max_tokens = 0;
};

// What was sampled behind a prompt, and from which logits.
struct Answer {
  std::vector<TokenId> output;
  std::vector<std::vector<float>> logits;
};

// How prompts are run.
struct Setting {
  std::string name;
  std::vector<int32_t> layer_bounds = {0, kLayers};
  int32_t num_blocks = 100;
  int32_t max_num_batched_tokens = 2048;
  int32_t max_num_seqs = 1;
  bool prefix_caching = false;
  double max_step_seconds = 1e9;  // by `cost`
  CostCoefficients cost;
};

// A scheduler over real ranks in this process.
class Engine {
 public:
  explicit Engine(const Setting& setting)
      : setting_(setting), stages_(static_cast<int32_t>(setting.layer_bounds.size()) - 1) {
    auto ranks = RankGroup::Create({.model_dir = SourcePath("models/demo"),
                                    .layer_bounds = setting.layer_bounds,
                                    .num_blocks = setting.num_blocks});
    CHECK(ranks.ok()) << ranks.status();
    ranks_ = *std::move(ranks);
    scheduler_ = std::make_unique<BatchScheduler>(
        SchedulerLimits{.max_model_len = 1 << 20,
                        .max_num_batched_tokens = setting.max_num_batched_tokens,
                        .max_num_seqs = setting.max_num_seqs,
                        .max_waiting = 1000,
                        .max_waiting_long = 1000,
                        .long_prompt_tokens = 1 << 20,
                        .num_layers = kLayers,
                        .num_stages = stages_,
                        .max_plans_in_flight = stages_ == 1 ? 1 : stages_ + 1,
                        .prefix_caching = setting.prefix_caching,
                        .max_step_seconds = setting.max_step_seconds},
        PrefixRule{}, rule_);
    scheduler_->GroupUp({.blocks = setting.num_blocks});
  }

  // All prompts at once.
  std::vector<Answer> Run(const std::vector<Prompt>& prompts) {
    answers_.assign(prompts.size(), {});
    for (size_t i = 0; i < prompts.size(); ++i) {
      Request request;
      request.id.low = i;
      request.prompt = prompts[i].tokens;
      request.sampling.temperature = 0;
      request.stopping.max_tokens = prompts[i].max_tokens;
      scheduler_->pool().Enqueue(std::move(request));
    }
    while (Step()) {
    }
    CHECK(scheduler_->pool().running().empty() && scheduler_->pool().waiting().empty());
    return std::move(answers_);
  }

  int64_t preemptions() const { return preemptions_; }
  int64_t cached_tokens() const { return cached_tokens_; }
  int64_t cut_units() const { return cut_units_; }

 private:
  bool Step() {
    std::vector<StepPlan> plans;
    while (std::optional<StepPlan> plan = scheduler_->Next(setting_.cost)) {
      for (const worker::Unit& unit : plan->units) {
        if (unit.layer_end < kLayers) ++cut_units_;
      }
      plans.push_back(*std::move(plan));
    }
    preemptions_ += static_cast<int64_t>(scheduler_->pool().TakePreempted().size());
    if (plans.empty()) return false;
    auto outcome = ranks_->Run(plans);
    CHECK(outcome.ok()) << outcome.status();
    for (const StepResult& result : outcome->results) Retire(result, outcome->logits);
    return true;
  }

  void Retire(const StepResult& result, const RankGroup::Logits& logits) {
    const PlannedStep step = *scheduler_->Retire(result.step_id);
    for (const PlannedSlice& slice : step.slices) {
      if (!slice.sample) continue;
      Sequence& sequence = *slice.sequence;
      const auto sampled =
          std::ranges::find(result.sampled, sequence.id, &worker::SampledToken::sequence_id);
      Answer& answer = answers_[sequence.request.id.low];
      answer.logits.push_back(logits.at({sequence.id, sequence.known_tokens() - 1}));
      answer.output.push_back(sampled->token.token);
      sequence.output.push_back(sampled->token.token);
      if (static_cast<int32_t>(sequence.output.size()) < sequence.request.stopping.max_tokens) {
        continue;
      }
      cached_tokens_ += sequence.cached_prompt_tokens;
      scheduler_->End(sequence);
    }
  }

  const Setting setting_;
  const int32_t stages_;
  const StopRule rule_{{}};
  std::unique_ptr<RankGroup> ranks_;
  std::unique_ptr<BatchScheduler> scheduler_;
  std::vector<Answer> answers_;
  int64_t preemptions_ = 0;
  int64_t cached_tokens_ = 0;
  int64_t cut_units_ = 0;
};

std::vector<TokenId> RandomTokens(int64_t count, std::mt19937_64& random) {
  std::vector<TokenId> tokens(static_cast<size_t>(count));
  for (TokenId& token : tokens) token = static_cast<TokenId>(Uniform(random, 0, 2047));
  return tokens;
}

// Thirty of 1 to 20,000 tokens, log-uniform, one in each of thirty equal parts; some begin alike.
const std::vector<Prompt>& Prompts() {
  static const std::vector<Prompt> prompts = [] {
    std::mt19937_64 random = FreshRandom();
    const std::vector<TokenId> common = RandomTokens(20'000, random);
    std::vector<Prompt> made;
    for (int i = 0; i < 30; ++i) {
      const double part = (i + static_cast<double>(Uniform(random, 0, 999)) / 1000) / 30;
      const auto length = std::max<int64_t>(1, std::llround(std::pow(20'000.0, part)));
      Prompt prompt = {.tokens = RandomTokens(length, random), .max_tokens = 3};
      if (i % 3 == 0) std::copy_n(common.begin(), length * 3 / 4, prompt.tokens.begin());
      made.push_back(std::move(prompt));
    }
    std::ranges::shuffle(made, random);
    return made;
  }();
  return prompts;
}

// Each prompt by itself, in chunks of 2,048 tokens, on one rank, without a cache.
const std::vector<Answer>& Alone() {
  static const std::vector<Answer> answers = Engine({.name = "alone"}).Run(Prompts());
  return answers;
}

void ExpectSame(const std::vector<Answer>& actual, const std::vector<Answer>& expected,
                const std::vector<Prompt>& prompts) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    SCOPED_TRACE(::testing::Message() << "prompt " << i << " of " << prompts[i].tokens.size());
    EXPECT_EQ(actual[i].output, expected[i].output);
    ASSERT_EQ(actual[i].logits.size(), expected[i].logits.size());
    for (size_t token = 0; token < expected[i].logits.size(); ++token) {
      const std::vector<float>& logits = expected[i].logits[token];
      EXPECT_TRUE(SameBits(actual[i].logits[token].data(), logits.data(),
                           static_cast<int64_t>(logits.size())))
          << "output token " << token;
    }
  }
}

// Of the demo model on a slow machine: 256 tokens behind 10,000 take 0.1 s.
constexpr CostCoefficients kCost = {.c = 0.001, .b = 1e-4, .a = 1e-8};

class ScheduledLogits : public ::testing::TestWithParam<std::vector<int32_t>> {};

TEST_P(ScheduledLogits, AreThoseOfThePromptAlone) {
  Engine engine({.name = "together",
                 .layer_bounds = GetParam(),
                 .num_blocks = 200,
                 .max_num_batched_tokens = 777,
                 .max_num_seqs = 12,
                 .prefix_caching = true,
                 .max_step_seconds = 0.04,
                 .cost = kCost});
  ExpectSame(engine.Run(Prompts()), Alone(), Prompts());
  EXPECT_GT(engine.cut_units(), 0);
  EXPECT_GT(engine.cached_tokens(), 0);
}

INSTANTIATE_TEST_SUITE_P(OnStages, ScheduledLogits,
                         ::testing::Values(std::vector<int32_t>{0, 4},
                                           std::vector<int32_t>{0, 1, 4},
                                           std::vector<int32_t>{0, 1, 2, 3, 4}),
                         [](const auto& stages) {
                           return std::to_string(stages.param.size() - 1);
                         });

TEST(ScheduledLogitsTest, OfTheSecondTurnAreThoseWithoutACache) {
  std::mt19937_64 random = FreshRandom();
  std::vector<Prompt> conversations;
  for (const int64_t length : {200, 255, 256, 1000, 3300}) {
    conversations.push_back({.tokens = RandomTokens(length, random), .max_tokens = 70});
  }
  const Setting plain = {.name = "alone"};
  Engine cached({.name = "turns", .num_blocks = 60, .max_num_seqs = 5, .prefix_caching = true});
  for (int turn = 0; turn < 3; ++turn) {
    const std::vector<Answer> answers = cached.Run(conversations);
    ExpectSame(answers, Engine(plain).Run(conversations), conversations);
    for (size_t i = 0; i < conversations.size(); ++i) {
      std::vector<TokenId>& tokens = conversations[i].tokens;
      tokens.insert(tokens.end(), answers[i].output.begin(), answers[i].output.end());
      const std::vector<TokenId> question = RandomTokens(30, random);
      tokens.insert(tokens.end(), question.begin(), question.end());
    }
  }
  EXPECT_GT(cached.cached_tokens(), 9'000);
}

TEST(ScheduledLogitsTest, OfAPreemptedSequenceAreThoseOfAnUninterruptedOne) {
  // Nine blocks. The first two prompts take four each and start together. The first needs two more
  // long before it ends, when one is left at most: it preempts the second, whatever their lengths.
  std::mt19937_64 random = FreshRandom();
  std::vector<Prompt> prompts;
  for (int i = 0; i < 4; ++i) {
    const int64_t length = Uniform(random, i < 2 ? 769 : 200, 900);
    prompts.push_back({.tokens = RandomTokens(length, random), .max_tokens = 550});
  }
  const std::vector<Answer> alone = Engine({.name = "alone"}).Run(prompts);
  for (const bool prefix_caching : {true, false}) {
    SCOPED_TRACE(::testing::Message() << "prefix_caching " << prefix_caching);
    Engine engine({.name = "short of blocks",
                   .num_blocks = 9,
                   .max_num_batched_tokens = 300,
                   .max_num_seqs = 4,
                   .prefix_caching = prefix_caching});
    ExpectSame(engine.Run(prompts), alone, prompts);
    EXPECT_GT(engine.preemptions(), 0);
    std::cout << engine.preemptions() << " preemptions\n";
  }
}

}  // namespace
}  // namespace longhaul::testing
