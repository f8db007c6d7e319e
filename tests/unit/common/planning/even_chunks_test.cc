#include "common/planning/even_chunks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
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

// What the engine does with it: each chunk as long as the time allows, to the nearest block.
TEST(EvenChunkSeconds, ChunksCutByItAreCloseToTheSearchedOnes) {
  for (const int stages : {2, 4, 8}) {
    const SyntheticCosts costs(stages, kStage);
    constexpr int64_t kPrompt = 400'000;
    const double seconds = EvenChunkSeconds(kStage, stages, 0, kPrompt);
    std::vector<Chunk> chunks;
    for (int64_t begin = 0; begin < kPrompt;) {
      const int64_t most = (TokensWithin(kStage, begin, seconds - kStage.c) + 128) / 256 * 256;
      const int64_t count = std::min(kPrompt - begin, std::max<int64_t>(most, 256));
      chunks.push_back({.begin = begin, .count = count});
      begin += count;
    }
    const double even = SimulatePrefill(costs, chunks, stages + 1).ttft_seconds;
    const double best =
        FastestChunks(costs, kPrompt, {.max_chunk_tokens = 65'536}, stages + 1)->run.ttft_seconds;
    EXPECT_GE(even, best * (1 - 1e-9)) << "stages=" << stages;
    EXPECT_LE(even, best * 1.005) << "stages=" << stages;
  }
}

}  // namespace
}  // namespace longhaul::planning
