#include "worker/leader/chunk_planner.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace longhaul::worker::leader {
namespace {

TEST(ChunkPlanner, CutsAtBlocks) {
  const struct {
    const char* name;
    int64_t begin, prompt, budget, expected;
  } cases[] = {
      {"a prompt within the budget goes whole", 0, 100, 8192, 100},
      {"exactly the budget", 0, 8192, 8192, 8192},
      {"one more than the budget", 0, 8193, 8192, 8192},
      {"the rest needs no alignment", 8192, 8193, 8192, 1},
      {"an odd budget is rounded down to a block", 0, 100'000, 8191, 7936},
      {"the end is aligned, not the length", 300, 10'000, 1000, 980},
      {"less than a block left in the unit", 256, 1000, 255, 0},
      {"less than a block left, but the prompt ends in it", 768, 1000, 255, 232},
      {"one block of budget", 0, 1000, 256, 256},
      {"no budget", 0, 1000, 0, 0},
      {"one token, one budget", 0, 1, 1, 1},
  };
  const ChunkPlanner planner(256);
  for (const auto& c : cases) {
    EXPECT_EQ(planner.NextChunk(c.begin, c.prompt, c.budget), c.expected) << c.name;
  }
}

TEST(ChunkPlanner, AnyPromptIsCoveredWithoutGapsWhateverTheBudgets) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed=" << seed);
  std::mt19937 random(seed);
  const ChunkPlanner planner(256);
  for (int round = 0; round < 100; ++round) {
    const int64_t prompt = 1 + random() % 50'000;
    int64_t begin = 0;
    while (begin < prompt) {
      const int64_t budget = 256 + random() % 8192;
      const int64_t count = planner.NextChunk(begin, prompt, budget);
      ASSERT_GT(count, 0);
      ASSERT_LE(count, budget);
      begin += count;
      ASSERT_TRUE(begin == prompt || begin % 256 == 0) << "begin=" << begin;
    }
    ASSERT_EQ(begin, prompt);
  }
}

// A stage of 7 layers of a 7B model on an H100, about.
constexpr CostCoefficients kStage = {.c = 5e-3, .g = 0, .b = 4.8e-6, .a = 8.3e-11};

TEST(ChunkPlanner, ForAPipelineChunksTakeEqualTime) {
  const ChunkPlanner planner(256, /*num_stages=*/4);
  constexpr int64_t kPrompt = 1'000'000;
  double least = 1e9;
  double most = 0;
  int64_t begin = 0;
  int64_t first = 0;
  int64_t last = 0;
  while (begin < kPrompt) {
    const int64_t count = planner.NextChunk(begin, kPrompt, 131'072, kStage);
    ASSERT_GT(count, 0);
    UnitShape shape;
    shape.Add(begin, count);
    begin += count;
    ASSERT_TRUE(begin == kPrompt || begin % 256 == 0) << "begin=" << begin;
    if (begin == kPrompt) break;  // the rest
    least = std::min(least, PredictSeconds(kStage, shape));
    most = std::max(most, PredictSeconds(kStage, shape));
    if (first == 0) first = count;
    last = count;
  }
  EXPECT_GT(first, 10 * last);
  EXPECT_LT(most / least, 1.2);  // a block more or less
}

TEST(ChunkPlanner, APipelineTakesWhatTheUnitHasLeftIfThatIsLess) {
  const ChunkPlanner planner(256, /*num_stages=*/4);
  EXPECT_GT(planner.NextChunk(0, 1'000'000, 131'072, kStage), 8192);
  EXPECT_EQ(planner.NextChunk(0, 1'000'000, 8192, kStage), 8192);
  EXPECT_EQ(planner.NextChunk(0, 1'000'000, 300, kStage), 256);
  EXPECT_EQ(planner.NextChunk(0, 1'000'000, 255, kStage), 0);
  EXPECT_EQ(planner.NextChunk(999'999, 1'000'000, 1, kStage), 1);
}

TEST(ChunkPlanner, OneStageOrUnknownCostsTakeTheWholeBudget) {
  EXPECT_EQ(ChunkPlanner(256, 1).NextChunk(512'000, 1'000'000, 131'072, kStage), 131'072);
  EXPECT_EQ(ChunkPlanner(256, 4).NextChunk(512'000, 1'000'000, 131'072), 131'072);
}

}  // namespace
}  // namespace longhaul::worker::leader
