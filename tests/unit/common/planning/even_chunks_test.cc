#include "common/planning/even_chunks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "common/planning/chunk_search.h"
#include "tests/unit/common/planning/synthetic_costs.h"

namespace longhaul::planning {
namespace {

// A stage of 7 layers of a 7B model on an H100, about.
constexpr CostCoefficients kStage = {.c = 5e-3, .g = 0, .b = 4.8e-6, .a = 8.3e-11};

TEST(EvenChunkSeconds, IsUnboundedForOneStage) {
  EXPECT_EQ(EvenChunkSeconds(kStage, 1, 0, 1'000'000), INFINITY);
}

TEST(EvenChunkSeconds, NoOtherTimeIsQuicker) {
  const double work = kStage.b * 1e6 + kStage.a * 1e12;
  for (const int stages : {2, 4, 8}) {
    const double seconds = EvenChunkSeconds(kStage, stages, 0, 1'000'000);
    const auto ttft = [&](double s) { return (work / (s - kStage.c) + stages - 1) * s; };
    for (const double other : {0.5, 0.9, 0.99, 1.01, 1.1, 2.0}) {
      EXPECT_LT(ttft(seconds), ttft(kStage.c + (seconds - kStage.c) * other));
    }
  }
}

std::vector<Chunk> EvenChunks(const CostCoefficients& cost, int stages, int64_t prompt,
                              const CutRules& rules) {
  std::vector<Chunk> chunks;
  for (int64_t begin = 0; begin < prompt; begin = chunks.back().end()) {
    chunks.push_back(
        {.begin = begin, .count = EvenChunkTokens(cost, stages, begin, prompt, rules)});
    if (chunks.back().count <= 0) break;
  }
  return chunks;
}

TEST(EvenChunkTokens, CutsThatAreCloseToTheSearchedOnes) {
  for (const int stages : {2, 4, 8}) {
    const SyntheticCosts costs(stages, kStage);
    constexpr int64_t kPrompt = 400'000;
    const CutRules rules = {.max_chunk_tokens = 65'536};
    const double even =
        SimulatePrefill(costs, EvenChunks(kStage, stages, kPrompt, rules), stages + 1).ttft_seconds;
    const double best = FastestChunks(costs, kPrompt, rules, stages + 1)->run.ttft_seconds;
    EXPECT_GE(even, best * (1 - 1e-9)) << "stages=" << stages;
    EXPECT_LE(even, best * 1.005) << "stages=" << stages;
  }
}

TEST(EvenChunkTokens, AnyPromptIsCoveredInWholeBlocks) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed=" << seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 200; ++round) {
    const int stages = 1 + static_cast<int>(random() % 8);
    const int64_t prompt = 1 + static_cast<int64_t>(random() % 300'000);
    const CutRules rules = {.max_chunk_tokens = 256 + static_cast<int64_t>(random() % 40'000)};
    CostCoefficients cost = kStage;
    if (round % 3 == 0) cost = {};
    if (round % 3 == 1) cost.g = 1e-7;
    const std::vector<Chunk> chunks = EvenChunks(cost, stages, prompt, rules);
    ASSERT_EQ(chunks.back().end(), prompt);
    for (const Chunk& chunk : chunks) {
      ASSERT_GT(chunk.count, 0);
      ASSERT_LE(chunk.count, rules.max_chunk_tokens);
      ASSERT_TRUE(chunk.end() % 256 == 0 || chunk.end() == prompt) << chunk.end();
    }
  }
}

TEST(EvenChunkTokens, BehindABeginWithinABlockItEndsAtABlock) {
  const CutRules rules = {.max_chunk_tokens = 1024};
  EXPECT_EQ(EvenChunkTokens({}, 1, 100, 10'000, rules), 924);
  EXPECT_EQ(EvenChunkTokens({.c = 1}, 2, 100, 10'000, {.max_chunk_tokens = 256}), 156);
  EXPECT_EQ(EvenChunkTokens({}, 1, 100, 1124, rules), 1024);
  EXPECT_EQ(EvenChunkTokens({}, 1, 100, 1125, rules), 924);
}

TEST(EvenChunkTokens, OneStageOrAnUnknownModelTakesTheMost) {
  const CutRules rules = {.max_chunk_tokens = 8192};
  EXPECT_EQ(EvenChunkTokens(kStage, 1, 512'000, 1'000'000, rules), 8192);
  EXPECT_EQ(EvenChunkTokens({}, 4, 512'000, 1'000'000, rules), 8192);
}

TEST(EvenChunkTokens, AtLeastABlockWhateverItCosts) {
  const CostCoefficients slow = {.c = 1, .g = 1e-3, .b = 1, .a = 1};
  EXPECT_EQ(EvenChunkTokens(slow, 4, 999'936, 1'000'000, {.max_chunk_tokens = 8192}), 64);
  EXPECT_EQ(EvenChunkTokens(slow, 4, 512'000, 1'000'000, {.max_chunk_tokens = 8192}), 256);
}

}  // namespace
}  // namespace longhaul::planning
