#include "common/planning/chunk_search.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "tests/unit/common/planning/synthetic_costs.h"

namespace longhaul::planning {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr int kUnlimited = 1 << 20;

// The least time over every way to cut at the positions.
double LeastByTryingAll(const PrefillCosts& costs, const std::vector<int64_t>& positions,
                        int64_t max_chunk_tokens) {
  const size_t inner = positions.size() - 2;
  double least = std::numeric_limits<double>::infinity();
  for (uint32_t cuts = 0; cuts < uint32_t{1} << inner; ++cuts) {
    std::vector<Chunk> chunks;
    int64_t begin = 0;
    bool fits = true;
    for (size_t i = 1; i < positions.size(); ++i) {
      if (i <= inner && (cuts >> (i - 1) & 1) == 0) continue;
      chunks.push_back({.begin = begin, .count = positions[i] - begin});
      fits = fits && chunks.back().count <= max_chunk_tokens;
      begin = positions[i];
    }
    if (fits) {
      least = std::min(least, SimulatePrefill(costs, chunks, kUnlimited).ttft_seconds);
    }
  }
  return least;
}

TEST(FastestChunks, FindsTheOptimumOfEqualStages) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed=" << seed);
  std::mt19937 random(seed);
  std::uniform_real_distribution<double> uniform(0, 1);
  for (int round = 0; round < 60; ++round) {
    const int stages = 1 + static_cast<int>(random() % 6);
    // Time that grows with the chunk, in steps as waves of tiles make it.
    const double overhead = uniform(random) * 2;
    const double attention = uniform(random) * 0.01;
    const double wave = 256.0 * static_cast<double>(1 + random() % 4);
    const SyntheticCosts costs(
        std::vector<double>(static_cast<size_t>(stages), 1.0), [=](const Chunk& chunk) {
          const double rows = std::ceil(static_cast<double>(chunk.count) / wave);
          return overhead + rows * (1 + attention * static_cast<double>(chunk.begin) / 256);
        });
    const int64_t prompt = 1 + static_cast<int64_t>(random() % (12 * 256));
    const CutRules rules = {.max_chunk_tokens = 256 * (1 + static_cast<int64_t>(random() % 12))};
    const absl::StatusOr<ChunkPlan> plan = FastestChunks(costs, prompt, rules, kUnlimited);
    ASSERT_TRUE(plan.ok()) << plan.status();
    EXPECT_NEAR(plan->run.ttft_seconds,
                LeastByTryingAll(costs, CutPositions(prompt, rules), rules.max_chunk_tokens), 1e-9)
        << "stages=" << stages << " prompt=" << prompt << " max=" << rules.max_chunk_tokens;
  }
}

TEST(FastestChunks, IsWithinFourPercentOfTheOptimumOfUnequalStages) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed=" << seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 30; ++round) {
    std::vector<double> scale(2 + random() % 5);
    for (double& value : scale) value = random() % 2 == 0 ? 4 : 3;
    const SyntheticCosts costs(scale, [](const Chunk& chunk) {
      const double rows = static_cast<double>(chunk.count) / 256;
      return 0.1 + rows * (1 + 0.2 * static_cast<double>(chunk.begin) / 256 + 0.1 * rows);
    });
    const CutRules rules = {.max_chunk_tokens = 1 << 20};
    constexpr int64_t kPrompt = 12 * 256;
    const double found = FastestChunks(costs, kPrompt, rules, kUnlimited)->run.ttft_seconds;
    const double least =
        LeastByTryingAll(costs, CutPositions(kPrompt, rules), rules.max_chunk_tokens);
    EXPECT_GE(found, least * (1 - 1e-9));
    EXPECT_LE(found, least * 1.04) << testing::PrintToString(scale);
  }
}

TEST(FastestChunks, KeepsTheRulesOfALargePrompt) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed=" << seed);
  std::mt19937 random(seed);
  const CostCoefficients cost = {.c = 5e-3, .g = 0, .b = 4.8e-6, .a = 8.3e-11};
  for (int round = 0; round < 5; ++round) {
    const int64_t prompt = 100'000 + static_cast<int64_t>(random() % 100'000);
    CutRules rules = {.max_chunk_tokens = 15'872 + static_cast<int64_t>(random() % 32'768),
                      .piece_tokens = 15'872,
                      .sparse_begin = 31'744,
                      .segment_tokens = 63'488};
    if (round == 0) rules = {.max_chunk_tokens = 4096};
    const absl::StatusOr<ChunkPlan> plan = FastestChunks(SyntheticCosts(4, cost), prompt, rules, 5);
    ASSERT_TRUE(plan.ok()) << plan.status();
    int64_t begin = 0;
    for (const Chunk& chunk : plan->chunks) {
      EXPECT_EQ(chunk.begin, begin);
      EXPECT_GT(chunk.count, 0);
      EXPECT_LE(chunk.count, rules.max_chunk_tokens);
      begin = chunk.end();
      if (begin == prompt) break;
      EXPECT_EQ(begin % 256, 0);
      if (rules.piece_tokens > 0 && begin > rules.sparse_begin) {
        EXPECT_EQ(begin % rules.piece_tokens, 0);
      }
      if (rules.segment_tokens > 0) {
        EXPECT_LE(chunk.end(), (chunk.begin / 63'488 + 1) * 63'488);
      }
    }
    EXPECT_EQ(begin, prompt);
    EXPECT_EQ(plan->run.ttft_seconds,
              SimulatePrefill(SyntheticCosts(4, cost), plan->chunks, 5).ttft_seconds);
  }
}

TEST(FastestChunks, NeverLosesToFixedChunksAndShrinksWithTheHistory) {
  const CostCoefficients cost = {.c = 5e-3, .g = 0, .b = 4.8e-6, .a = 8.3e-11};
  for (const int stages : {1, 2, 4, 8}) {
    const SyntheticCosts costs(stages, cost);
    const CutRules rules = {.max_chunk_tokens = 131'072};
    const ChunkPlan best = FastestChunks(costs, 300'000, rules, stages + 1).value();
    const ChunkPlan fixed = FastestFixedChunks(costs, 300'000, rules, stages + 1).value();
    EXPECT_LE(best.run.ttft_seconds, fixed.run.ttft_seconds);
    if (stages == 1) continue;
    const double best_of_few = FastestChunks(costs, 300'000, rules, 2)->run.ttft_seconds;
    EXPECT_LE(best_of_few, FastestFixedChunks(costs, 300'000, rules, 2)->run.ttft_seconds);
    EXPECT_LT(best.run.ttft_seconds, 0.999 * fixed.run.ttft_seconds) << "stages=" << stages;
    EXPECT_GT(best.chunks.front().count, 2 * best.chunks[best.chunks.size() - 2].count);
  }
}

TEST(FastestChunks, ALongerPromptTakesLonger) {
  const SyntheticCosts costs(4, {.c = 5e-3, .g = 0, .b = 4.8e-6, .a = 8.3e-11});
  double before = 0;
  for (int64_t prompt = 1; prompt < 200'000; prompt = prompt * 3 + 100) {
    const double now =
        FastestChunks(costs, prompt, {.max_chunk_tokens = 65'536}, 5)->run.ttft_seconds;
    EXPECT_GT(now, before) << "prompt=" << prompt;
    before = now;
  }
}

TEST(FastestChunks, SaysWhereAPromptCannotBeCut) {
  const SyntheticCosts costs({1.0, 1.0}, [](const Chunk& chunk) {
    return chunk.begin < 1024 ? 1.0 : std::numeric_limits<double>::infinity();
  });
  const CutRules rules = {.max_chunk_tokens = 1024};
  for (const absl::Status& status : {FastestChunks(costs, 4096, rules, 3).status(),
                                     FastestFixedChunks(costs, 4096, rules, 3).status()}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("a prompt of 4096 tokens cannot be cut"));
  }
  EXPECT_TRUE(FastestChunks(costs, 2048, rules, 3).status().code() ==
              absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(FastestChunks(costs, 1024, rules, 3).ok());
}

TEST(FastestFixedChunks, TriesEverySizeOfWholeBlocks) {
  // A unit's overhead weighs more than anything: one chunk is best, and the largest that may be.
  const SyntheticCosts costs(
      {1.0}, [](const Chunk& chunk) { return 1000.0 + static_cast<double>(chunk.count); });
  EXPECT_EQ(FastestFixedChunks(costs, 1000, {.max_chunk_tokens = 4096}, 1)->chunks.size(), 1U);
  const ChunkPlan plan = FastestFixedChunks(costs, 1000, {.max_chunk_tokens = 600}, 1).value();
  ASSERT_EQ(plan.chunks.size(), 2U);
  EXPECT_EQ(plan.chunks[0].count, 512);
}

TEST(CutPositions, AreBlocksThenPiecesAndThePromptsEnd) {
  EXPECT_THAT(CutPositions(1, {.max_chunk_tokens = 256}), ElementsAre(0, 1));
  EXPECT_THAT(CutPositions(512, {.max_chunk_tokens = 256}), ElementsAre(0, 256, 512));
  EXPECT_THAT(CutPositions(513, {.max_chunk_tokens = 256}), ElementsAre(0, 256, 512, 513));
  EXPECT_THAT(
      CutPositions(3000, {.max_chunk_tokens = 1024, .piece_tokens = 768, .sparse_begin = 768}),
      ElementsAre(0, 256, 512, 768, 1536, 2304, 3000));
}

}  // namespace
}  // namespace longhaul::planning
