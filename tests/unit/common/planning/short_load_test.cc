#include "common/planning/short_load.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <random>
#include <vector>

#include "common/planning/chunk_search.h"

namespace longhaul::planning {
namespace {

constexpr double kUnbounded = std::numeric_limits<double>::infinity();

ModelConfig Qwen7B() {
  ModelConfig model;
  model.num_layers = 28;
  model.hidden_size = 3584;
  model.intermediate_size = 18944;
  model.num_heads = 28;
  model.num_kv_heads = 4;
  model.head_dim = 128;
  model.vocab_size = 152064;
  return model;
}

GpuPrefillCosts OneCard(double max_step_seconds = kUnbounded) {
  return GpuPrefillCosts(Qwen7B(), GpuCosts::Find("h100-80g").value(), {28}, max_step_seconds);
}

std::vector<Chunk> ChunksOf(int64_t prompt, double max_step_seconds) {
  return FastestChunks(OneCard(max_step_seconds), prompt, {.max_chunk_tokens = 131'072}, 1)->chunks;
}

TEST(SimulateShortBesideLong, WithoutShortRequestsItIsTheLongPromptAlone) {
  const std::vector<Chunk> chunks = ChunksOf(300'000, kUnbounded);
  const SharedRun run =
      SimulateShortBesideLong(OneCard(), chunks, {}, {.requests_per_second = 1e-9});
  const double alone = SimulatePrefill(OneCard(), chunks, 1).ttft_seconds;
  EXPECT_NEAR(run.long_ttft_seconds, alone, 1e-9);
  EXPECT_NEAR(run.long_busy_seconds, alone, 1e-9);
  EXPECT_TRUE(run.short_ttft_seconds.empty());
}

TEST(SimulateShortBesideLong, NoShortRequestWaitsLongerThanAUnitAndItsOwn) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed=" << seed);
  const UnitLimits limits = {.seconds_beside_others = 0.1, .seconds_alone = 0.3};
  const std::vector<Chunk> chunks = ChunksOf(400'000, 0.1);
  const SharedRun run =
      SimulateShortBesideLong(OneCard(), chunks, limits, {.requests_per_second = 3, .seed = seed});
  ASSERT_GT(run.short_ttft_seconds.size(), 50U);
  EXPECT_TRUE(std::is_sorted(run.short_ttft_seconds.begin(), run.short_ttft_seconds.end()));
  // Two units of short requests: the one that ran when it came, and its own.
  const double own = OneCard().StageSeconds(0, {0, 1024}, true);
  EXPECT_LE(run.short_ttft_seconds.back(), 0.3 + 2 * own);
  EXPECT_GE(run.short_ttft_seconds.front(), OneCard().StageSeconds(0, {0, 1}, true) * (1 - 1e-9));
  // The long prompt has every second unit at least.
  EXPECT_GE(run.long_busy_seconds, SimulatePrefill(OneCard(), chunks, 1).ttft_seconds);
  EXPECT_LT(run.long_ttft_seconds, 2 * run.long_busy_seconds);
}

TEST(SimulateShortBesideLong, TheSameSeedGivesTheSameRun) {
  const std::vector<Chunk> chunks = ChunksOf(100'000, 0.1);
  const auto ttft = [&](uint64_t seed) {
    return SimulateShortBesideLong(OneCard(), chunks, {0.1, 0.1}, {.seed = seed})
        .short_ttft_seconds;
  };
  EXPECT_EQ(ttft(7), ttft(7));
  EXPECT_NE(ttft(7), ttft(8));
}

// The 7B reads a million tokens on one H100 while a short request comes every second.
TEST(SimulateShortBesideLong, TheGuardKeepsShortRequestsQuickAndTheLongPromptNearlySo) {
  const double alone = SimulatePrefill(OneCard(), ChunksOf(1'000'000, kUnbounded), 1).ttft_seconds;
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    const ShortLoad load = {.seed = seed};
    const SharedRun guarded =
        SimulateShortBesideLong(OneCard(), ChunksOf(1'000'000, 0.2),
                                {.seconds_beside_others = 0.2, .seconds_alone = 0.5}, load);
    EXPECT_GT(guarded.short_ttft_seconds.size(), 280U);
    EXPECT_LE(Percentile(guarded.short_ttft_seconds, 0.99), 0.5) << "seed=" << seed;
    EXPECT_LE(guarded.long_busy_seconds, 1.15 * alone) << "seed=" << seed;
    const SharedRun unguarded =
        SimulateShortBesideLong(OneCard(), ChunksOf(1'000'000, kUnbounded), {}, load);
    EXPECT_GT(Percentile(unguarded.short_ttft_seconds, 0.99), 10) << "seed=" << seed;
  }
}

TEST(Percentile, IsAValueThatTheShareDoesNotExceed) {
  std::vector<double> values;
  for (int i = 1; i <= 200; ++i) values.push_back(i);
  EXPECT_EQ(Percentile(values, 0.99), 198);
  EXPECT_EQ(Percentile(values, 0.5), 100);
  EXPECT_EQ(Percentile(values, 1), 200);
  EXPECT_EQ(Percentile(values, 0), 1);
  EXPECT_EQ(Percentile({}, 0.5), 0);
}

}  // namespace
}  // namespace longhaul::planning
