#include "worker/leader/warm_up.h"

#include <prometheus/registry.h>

#include <cmath>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "tests/testing/engine_core_fixture.h"

namespace longhaul::worker::leader {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr CostCoefficients kTruth = {.c = 0.002, .g = 2e-8, .b = 2e-6, .a = 3e-11};

// An engine core that warms up before it takes requests, on ranks that the test plays.
class WarmUpTest : public ::longhaul::testing::EngineCoreFixture {
 protected:
  WarmUpTest() : WarmUpTest(WithWarmUp(100)) {}
  explicit WarmUpTest(const EngineOptions& options) : EngineCoreFixture(options) {}

  static EngineOptions WithWarmUp(double seconds, int32_t batched_tokens = 512) {
    EngineOptions options = Options(1, batched_tokens, /*prefix_caching=*/true);
    options.scheduler.max_step_seconds = 0.005;
    options.warm_up_seconds = seconds;
    return options;
  }
  static UnitShape ShapeOf(const StepPlan& plan) {
    UnitShape shape;
    for (const Unit& unit : plan.units) {
      for (const Slice& slice : unit.slices) {
        shape.Add(slice.begin, static_cast<int64_t>(slice.token_ids.size()));
      }
    }
    return shape;
  }
  // The ranks take so long for the newest plan.
  void TakeSeconds(double seconds) {
    spent_ += seconds;
    Execute(5, seconds);
  }
  // A prompt of which nothing is cached.
  void SubmitPrefill(int64_t tokens) {
    Request request = MakeRequest(tokens, 0);
    request.prompt.assign(static_cast<size_t>(tokens), static_cast<TokenId>(next_id_ % 900));
    Submit(std::move(request));
  }
  // They take what `cost` says until the group is ready; `noise` is multiplied.
  template <typename Noise>
  void WarmUpWith(const CostCoefficients& cost, Noise noise) {
    while (!board_.Get().ready()) {
      ASSERT_LT(sink_.plans.size(), 1000u);
      TakeSeconds(PredictSeconds(cost, ShapeOf(sink_.plans.back())) * noise());
    }
  }
  void WarmUpWith(const CostCoefficients& cost) {
    WarmUpWith(cost, [] { return 1.0; });
  }
  double Gauge(const std::string& name) const {
    for (const prometheus::MetricFamily& family : metrics_.registry()->Collect()) {
      if (family.name == "longhaul_worker_" + name) return family.metric[0].gauge.value;
    }
    ADD_FAILURE() << "no metric " << name;
    return NAN;
  }

  double spent_ = 0;
};

void ExpectNear(const CostCoefficients& found, const CostCoefficients& truth) {
  EXPECT_NEAR(found.c, truth.c, 0.05 * truth.c);
  EXPECT_NEAR(found.g, truth.g, 0.05 * truth.g);
  EXPECT_NEAR(found.b, truth.b, 0.05 * truth.b);
  EXPECT_NEAR(found.a, truth.a, 0.05 * truth.a);
}

TEST_F(WarmUpTest, FindsWhatUnitsCost) {
  Up();
  WarmUpWith(kTruth);
  ExpectNear(board_.Get().cost, kTruth);
  EXPECT_GE(board_.Get().cost.reach_tokens, 8192);
  EXPECT_EQ(Gauge("cost_fit_ok"), 1);
  EXPECT_LT(Gauge("cost_error_ratio"), 0.01);
  EXPECT_NEAR(Gauge("warm_up_seconds"), spent_, 1e-9);
}

class WarmUpLargeUnitsTest : public WarmUpTest {
 protected:
  WarmUpLargeUnitsTest() : WarmUpTest(WithWarmUp(100, 2048 + 100)) {}
};

TEST_F(WarmUpLargeUnitsTest, FindsWhatUnitsCostThroughNoise) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(::testing::Message() << "seed=" << seed);
  std::mt19937 random(seed);
  std::uniform_real_distribution<double> noise(0.999, 1.001);
  Up();
  WarmUpWith(kTruth, [&] { return noise(random); });
  const CostCoefficients& found = board_.Get().cost;
  for (const auto& [history, count] : {std::pair{0, 256}, {0, 2048}, {4096, 256}, {8192, 2048}}) {
    UnitShape shape;
    shape.Add(history, count);
    const double truth = PredictSeconds(kTruth, shape);
    EXPECT_NEAR(PredictSeconds(found, shape), truth, 0.05 * truth) << history << " " << count;
  }
}

TEST_F(WarmUpTest, ColdUnitsAreNoSamples) {
  Up();
  std::set<size_t> seen;
  while (!board_.Get().ready()) {
    const StepPlan& plan = sink_.plans.back();
    const double seconds = PredictSeconds(kTruth, ShapeOf(plan));
    const Slice* slice = plan.units.empty() ? nullptr : &plan.units[0].slices[0];
    const bool cold = slice != nullptr && seen.insert(slice->token_ids.size()).second;
    TakeSeconds(cold ? 5 * seconds : seconds);
  }
  ExpectNear(board_.Get().cost, kTruth);
}

TEST_F(WarmUpTest, TheGroupIsReadyOnlyAfterwards) {
  Up();
  EXPECT_FALSE(board_.Get().ready());
  EXPECT_EQ(board_.Get().running_requests, 0) << "what runs is nobody's request";
  EXPECT_EQ(board_.Get().queued_prefill_tokens, 0);
  const Answer early = Submit(10, 10);
  ASSERT_THAT(Only<RejectedEvent>(early), SizeIs(1));
  EXPECT_THAT(Only<RejectedEvent>(early)[0].reason, HasSubstr("warming up"));
  WarmUpWith(kTruth);
  EXPECT_EQ(board_.Get().incarnation, 1u);
  Execute();  // the end of the last prompt reaches the ranks
  const Answer answer = Submit(10, 1);
  Execute(7);
  EXPECT_THAT(Output(answer), ::testing::ElementsAre(7));
}

TEST_F(WarmUpTest, LeavesNothingBehind) {
  Up();
  WarmUpWith(kTruth);
  Execute();
  EXPECT_EQ(core_.pool().cache().num_cached(PrefixCache::Tier::kDevice), 0);
  EXPECT_EQ(board_.Get().free_kv_blocks, 100);
  size_t starts = 0;
  size_t ends = 0;
  for (const StepPlan& plan : sink_.plans) {
    starts += plan.starts.size();
    ends += plan.ends.size();
    for (const SequenceStart& start : plan.starts) {
      EXPECT_THAT(start.cached_prompt_ids, IsEmpty()) << "a second run is run whole";
    }
  }
  EXPECT_EQ(starts, ends);
  EXPECT_GT(starts, 5u);
  EXPECT_EQ(Gauge("running_requests"), 0);
  EXPECT_EQ(core_.next_wake(), absl::InfiniteFuture());
}

class ShortWarmUpTest : public WarmUpTest {
 protected:
  ShortWarmUpTest() : WarmUpTest(WithWarmUp(2)) {}
};

TEST_F(ShortWarmUpTest, TakesNoLongerThanItMay) {
  Up();
  WarmUpWith({.c = 0.01, .g = 0, .b = 2e-4, .a = 0});
  EXPECT_LE(spent_, 2);
  EXPECT_GT(spent_, 1.5);
  EXPECT_NEAR(board_.Get().cost.b, 2e-4, 1e-5) << "what was seen is learnt";
}

TEST_F(ShortWarmUpTest, AMachineThatIsTooSlowForItRunsOneBlock) {
  Up();
  WarmUpWith({.c = 1, .g = 0, .b = 0.1, .a = 0});
  ASSERT_FALSE(sink_.plans.empty());
  EXPECT_EQ(ShapeOf(sink_.plans[0]).new_tokens, 256);
  EXPECT_THAT(sink_.plans, SizeIs(2)) << "the second one ends the prompt";
  EXPECT_EQ(Gauge("cost_fit_ok"), 0) << "not known";
}

TEST_F(WarmUpTest, CostsThatDoNotFitAreBelievedByNobodyUntilTheyDo) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(::testing::Message() << "seed=" << seed);
  std::mt19937 random(seed);
  std::uniform_real_distribution<double> exponent(-3, 3);
  Up();
  WarmUpWith(kTruth, [&] { return std::exp(exponent(random)); });
  EXPECT_EQ(Gauge("cost_fit_ok"), 0);
  EXPECT_GT(Gauge("cost_error_ratio"), CostFit::kBelieved);
  EXPECT_EQ(board_.Get().cost.b, 0) << "routers predict nothing";
  EXPECT_EQ(board_.Get().cost.c, 0);
  Execute();
  // The limit of a step is below what 512 tokens take, but nobody knows what they take.
  const Answer answer = Submit(9'000, 0);
  EXPECT_EQ(ShapeOf(sink_.plans.back()).new_tokens, 512);
  Execute(5, 0.01);
  EXPECT_EQ(Only<ProgressEvent>(answer).back().eta_seconds, std::nullopt);
  EXPECT_EQ(sink_.predictions.back(), std::nullopt);
  core_.Cancel(answer.id, now_);
  int units = 0;
  for (; Gauge("cost_fit_ok") == 0; ++units) {
    ASSERT_LT(units, 400);
    if (sink_.plans.back().units.empty()) {
      Execute();
      SubmitPrefill(4'096 + 256);
    }
    TakeSeconds(PredictSeconds(kTruth, ShapeOf(sink_.plans.back())));
  }
  EXPECT_GT(units, 5);
  EXPECT_GT(board_.Get().cost.b, 0);
}

TEST_F(WarmUpTest, StartsAgainWithTheNextRanksButNotForEver) {
  for (uint64_t incarnation = 1; incarnation <= WarmUp::kMaxAttempts; ++incarnation) {
    Up(incarnation);
    EXPECT_FALSE(board_.Get().ready());
    EXPECT_EQ(ShapeOf(sink_.plans.back()).new_tokens, 256) << "from the first prompt on";
    for (int i = 0; i < 4; ++i) TakeSeconds(0.001);
    Down(incarnation);
  }
  Up(4);
  EXPECT_TRUE(board_.Get().ready());
  const Answer answer = Submit(10, 1);
  Execute(7);
  EXPECT_THAT(Output(answer), ::testing::ElementsAre(7));
}

TEST_F(WarmUpTest, OnceDoneIsEnough) {
  Up();
  WarmUpWith(kTruth);
  Down();
  Up(2);
  EXPECT_TRUE(board_.Get().ready());
  ExpectNear(board_.Get().cost, kTruth);
}

// Costs of "two cores", which is what the fixture's ranks are, were saved.
class SavedCostTest : public WarmUpTest {
 protected:
  explicit SavedCostTest(const std::string& hardware = "two cores")
      : WarmUpTest(WithSaved(hardware, *this)) {}

  static EngineOptions WithSaved(const std::string& hardware, SavedCostTest& test) {
    EngineOptions options = WithWarmUp(100);
    CostCoefficients saved = kTruth;
    saved.reach_tokens = 5'000;
    options.saved_costs = {{.hardware = "a cluster", .cost = {}},
                           {.hardware = hardware, .cost = saved}};
    options.keep_cost = [&test](const SavedCost& cost) { test.kept_.push_back(cost); };
    return options;
  }

  std::vector<SavedCost> kept_;
};

TEST_F(SavedCostTest, NeedNoWarmUp) {
  Up();
  EXPECT_TRUE(board_.Get().ready());
  EXPECT_THAT(sink_.plans, IsEmpty());
  ExpectNear(board_.Get().cost, kTruth);
  EXPECT_EQ(board_.Get().cost.reach_tokens, 5'000);
  EXPECT_EQ(Gauge("cost_fit_ok"), 1);
  EXPECT_EQ(Gauge("warm_up_seconds"), 0);
}

TEST_F(SavedCostTest, AreRefinedByWhatUnitsTake) {
  Up();
  CostCoefficients slower = kTruth;
  slower.b *= 1.3;
  slower.c *= 1.3;
  slower.g *= 1.3;
  slower.a *= 1.3;
  for (int round = 0; round < 8; ++round) {
    SubmitPrefill(4'096);
    while (!sink_.plans.back().units.empty()) {
      TakeSeconds(PredictSeconds(slower, ShapeOf(sink_.plans.back())));
    }
    Execute();
  }
  ASSERT_THAT(kept_, ::testing::Not(IsEmpty()));
  EXPECT_EQ(kept_.back().hardware, "two cores");
  UnitShape shape;
  shape.Add(2048, 512);
  const double truth = PredictSeconds(slower, shape);
  EXPECT_NEAR(PredictSeconds(kept_.back().cost, shape), truth, 0.05 * truth);
}

class OtherHardwareTest : public SavedCostTest {
 protected:
  OtherHardwareTest() : SavedCostTest("four cores") {}
};

TEST_F(OtherHardwareTest, CostsOfOtherHardwareAreNotUsed) {
  Up();
  EXPECT_FALSE(board_.Get().ready());
  WarmUpWith(kTruth);
  ASSERT_THAT(kept_, SizeIs(1)) << "after the warm-up";
  EXPECT_EQ(kept_[0].hardware, "two cores");
  ExpectNear(kept_[0].cost, kTruth);
  EXPECT_GE(kept_[0].cost.reach_tokens, 8192);
}

}  // namespace
}  // namespace longhaul::worker::leader
