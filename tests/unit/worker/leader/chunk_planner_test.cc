#include "worker/leader/chunk_planner.h"

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace longhaul::worker::leader
