#include "common/planning/pipeline_simulator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "tests/unit/common/planning/synthetic_costs.h"

namespace longhaul::planning {
namespace {

constexpr int kUnlimited = 1 << 20;

std::vector<Chunk> ChunksOf(const std::vector<int64_t>& counts) {
  std::vector<Chunk> chunks;
  int64_t begin = 0;
  for (const int64_t count : counts) {
    chunks.push_back({.begin = begin, .count = count});
    begin += count;
  }
  return chunks;
}

TEST(SimulatePrefill, EqualChunksFollowTheClosedForm) {
  for (const int stages : {1, 2, 4, 8}) {
    for (const int chunks : {1, 2, 7, 100}) {
      const SyntheticCosts costs(
          std::vector<double>(static_cast<size_t>(stages), 1.0), [](const Chunk&) { return 0.25; },
          /*send=*/0.0625 / 64);
      const PipelineRun run = SimulatePrefill(
          costs, ChunksOf(std::vector<int64_t>(static_cast<size_t>(chunks), 64)), kUnlimited);
      EXPECT_DOUBLE_EQ(run.ttft_seconds, 0.25 * (chunks + stages - 1) + 0.0625 * (stages - 1));
      EXPECT_EQ(run.longest_stage_seconds, 0.25);
      for (const StageUse& stage : run.stages) {
        EXPECT_DOUBLE_EQ(stage.busy_seconds, 0.25 * chunks);
        EXPECT_DOUBLE_EQ(stage.bubble, 1 - 0.25 * chunks / run.ttft_seconds);
      }
    }
  }
}

// The first token comes at the end of the longest way through the grid of chunks and stages.
double LongestWay(const SyntheticCosts& costs, const std::vector<Chunk>& chunks, size_t i, int s) {
  const double own = costs.StageSeconds(s, chunks[i], i + 1 == chunks.size());
  double before = 0;
  if (i > 0) before = std::max(before, LongestWay(costs, chunks, i - 1, s));
  if (s > 0) before = std::max(before, LongestWay(costs, chunks, i, s - 1));
  return before + own;
}

TEST(SimulatePrefill, TakesAsLongAsTheLongestWayThroughChunksAndStages) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed=" << seed);
  std::mt19937 random(seed);
  std::uniform_real_distribution<double> uniform(0.1, 1.0);
  for (int round = 0; round < 50; ++round) {
    std::vector<double> scale(1 + random() % 5);
    for (double& value : scale) value = uniform(random);
    std::vector<int64_t> counts(1 + random() % 6);
    for (int64_t& count : counts) count = 1 + static_cast<int64_t>(random() % 100);
    const SyntheticCosts costs(
        scale, [](const Chunk& chunk) { return 0.01 * static_cast<double>(chunk.count); });
    const std::vector<Chunk> chunks = ChunksOf(counts);
    EXPECT_NEAR(SimulatePrefill(costs, chunks, kUnlimited).ttft_seconds,
                LongestWay(costs, chunks, chunks.size() - 1, costs.num_stages() - 1), 1e-9);
  }
}

TEST(SimulatePrefill, OnePlanInFlightRunsOneStageAtATime) {
  const SyntheticCosts costs({1.0, 2.0, 0.5},
                             [](const Chunk& chunk) { return static_cast<double>(chunk.count); });
  EXPECT_DOUBLE_EQ(SimulatePrefill(costs, ChunksOf({1, 2, 3}), 1).ttft_seconds, 3.5 * 6);
}

TEST(SimulatePrefill, ASlowLinkHoldsTheStageBehindItAndNotTheOneBefore) {
  // A chunk takes 1 s on either stage and 4 s on the link: they leave the link at 5, 9 and 13 s.
  const SyntheticCosts costs(
      {1.0, 1.0}, [](const Chunk&) { return 1.0; }, /*send=*/4.0);
  const PipelineRun run = SimulatePrefill(costs, ChunksOf({1, 1, 1}), kUnlimited);
  EXPECT_DOUBLE_EQ(run.ttft_seconds, 14);
  EXPECT_DOUBLE_EQ(run.stages[1].bubble, 1 - 3.0 / 14);
}

TEST(SimulatePrefill, MorePlansInFlightNeverDelayTheFirstToken) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed=" << seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 50; ++round) {
    std::vector<int64_t> counts(1 + random() % 20);
    for (int64_t& count : counts) count = 1 + static_cast<int64_t>(random() % 100);
    const SyntheticCosts costs(
        {1.0, 0.7, 1.3, 1.0}, [](const Chunk& c) { return static_cast<double>(c.count); },
        /*send=*/0.1);
    double before = 1e300;
    for (int in_flight = 1; in_flight < 12; ++in_flight) {
      const double now = SimulatePrefill(costs, ChunksOf(counts), in_flight).ttft_seconds;
      EXPECT_LE(now, before) << "in_flight=" << in_flight;
      before = now;
    }
  }
}

TEST(SimulatePrefill, NoChunksTakeNoTime) {
  const SyntheticCosts costs({1.0}, [](const Chunk&) { return 1.0; });
  EXPECT_EQ(SimulatePrefill(costs, {}, 1).ttft_seconds, 0);
}

}  // namespace
}  // namespace longhaul::planning
