#include "common/planning/gpu_prefill_costs.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

namespace longhaul::planning {
namespace {

constexpr double kUnbounded = std::numeric_limits<double>::infinity();

ModelConfig SmallModel() {
  ModelConfig model;
  model.num_layers = 3;
  model.hidden_size = 512;
  model.intermediate_size = 1024;
  model.num_heads = 8;
  model.num_kv_heads = 2;
  model.head_dim = 64;
  model.vocab_size = 1000;
  return model;
}

// One TFLOP/s, whatever the size, and memory that takes no time.
GpuCosts PlainGpu() {
  GpuCosts gpu;
  gpu.step_overhead_seconds = 0.5;
  gpu.link_bytes_per_second = 1e6;
  gpu.memory_bytes_per_second = 1e300;
  gpu.gemm_tflops = 1;
  gpu.mlp_tile_rows = 1000;
  gpu.multiprocessors = 1;
  gpu.attention_tile_rows = 1;
  return gpu;
}

TEST(GpuPrefillCosts, CountsEveryOperationOnce) {
  const GpuPrefillCosts costs(SmallModel(), PlainGpu(), {2, 1}, kUnbounded);
  // Per token: 2 x (512 x 768 + 512 x 512 + 512 x 2048 + 1024 x 512) in products, 4 x 512 for each
  // key of the history and half of that for each of the chunk.
  constexpr double kProducts = 2 * (512 * 768 + 512 * 512 + 512 * 2048 + 1024 * 512);
  for (const int64_t begin : {0, 256, 100'000}) {
    for (const int64_t count : {1, 256, 777, 5000}) {
      const double x = static_cast<double>(count);
      const double flops = x * (kProducts + 4 * 512 * (static_cast<double>(begin) + x / 2));
      EXPECT_NEAR(costs.LayerSeconds({begin, count}) / (flops / 1e12), 1, 1e-9);
      EXPECT_NEAR(costs.StageSeconds(0, {begin, count}, false), 0.5 + 2 * flops / 1e12, 1e-9);
      EXPECT_NEAR(costs.StageSeconds(1, {begin, count}, false), 0.5 + flops / 1e12, 1e-9);
    }
  }
  EXPECT_DOUBLE_EQ(costs.SendSeconds({0, 100}), 100 * 512 * 2 / 1e6);
}

TEST(GpuPrefillCosts, TheHeadIsReadOnceByTheLastStageForTheLastChunk) {
  GpuCosts gpu = PlainGpu();
  gpu.memory_bytes_per_second = 1e6;
  const GpuPrefillCosts costs(SmallModel(), gpu, {2, 1}, kUnbounded);
  const Chunk chunk = {256, 256};
  EXPECT_EQ(costs.StageSeconds(0, chunk, true), costs.StageSeconds(0, chunk, false));
  EXPECT_NEAR(costs.StageSeconds(1, chunk, true) - costs.StageSeconds(1, chunk, false),
              1000 * 512 * 2 / 1e6, 1e-9);
}

TEST(GpuPrefillCosts, FewRowsTakeAsLongAsReadingWeightsAndCache) {
  GpuCosts gpu = PlainGpu();
  gpu.gemm_tflops = 1e6;
  gpu.attention_tflops_by_keys = Polyline({{0, 1e6}});
  gpu.causal_tflops_by_rows = Polyline({{0, 1e6}});
  gpu.memory_bytes_per_second = 1e9;
  const GpuPrefillCosts costs(SmallModel(), gpu, {3}, kUnbounded);
  constexpr double kWeights = 2.0 * (512 * 768 + 512 * 512 + 512 * 2048 + 1024 * 512);
  constexpr double kCache = 100'000.0 * 2 * 2 * 64 * 2;
  constexpr double kElementwise = 2.0 * (8 * 512 + 2 * 768 + 3 * 1024);
  EXPECT_NEAR(costs.LayerSeconds({100'000, 1}), (kWeights + kCache + kElementwise) / 1e9, 1e-6);
}

TEST(GpuPrefillCosts, ALastWaveThatIsNotFullCostsAsMuchAsAFullOne) {
  GpuCosts gpu = PlainGpu();
  gpu.multiprocessors = 8;  // the model's heads: a wave is one tile of rows
  gpu.attention_tile_rows = 256;
  gpu.attention_share_by_wave_fill = Polyline({{0, 0}, {1, 1}});
  gpu.gemm_tflops = 1e9;
  gpu.causal_tflops_by_rows = Polyline({{0, 1e9}});
  const GpuPrefillCosts costs(SmallModel(), gpu, {3}, kUnbounded);
  const double one = costs.LayerSeconds({1'000'000, 256});
  EXPECT_NEAR(costs.LayerSeconds({1'000'000, 512}) / one, 2, 1e-3);
  EXPECT_NEAR(costs.LayerSeconds({1'000'000, 257}) / one, 2, 1e-3);
  gpu.multiprocessors = 16;
  const GpuPrefillCosts half_full(SmallModel(), gpu, {3}, kUnbounded);
  EXPECT_NEAR(half_full.LayerSeconds({1'000'000, 256}) / half_full.LayerSeconds({1'000'000, 512}),
              1, 1e-3);
  // Ranges of keys fill the waves again.
  gpu.attention_range_keys = 1000;
  const GpuPrefillCosts ranges(SmallModel(), gpu, {3}, kUnbounded);
  EXPECT_NEAR(ranges.LayerSeconds({1'000'000, 256}) / ranges.LayerSeconds({1'000'000, 512}), 0.5,
              1e-3);
}

TEST(GpuPrefillCosts, SparsePiecesAttendToChosenKeysHoweverLongTheHistory) {
  GpuCosts gpu = PlainGpu();
  gpu.sparse_cluster_slashes = 21;  // and so 84 keys a cluster
  const SparseSettings sparse = {
      .piece_tokens = 1024, .begin = 4096, .columns = 100, .slashes = 210};
  const GpuPrefillCosts costs(SmallModel(), gpu, {3}, kUnbounded, sparse);
  const GpuPrefillCosts exact(SmallModel(), gpu, {3}, kUnbounded);
  constexpr double kProducts = 2 * (512 * 768 + 512 * 512 + 512 * 2048 + 1024 * 512);
  EXPECT_EQ(costs.LayerSeconds({0, 4096}), exact.LayerSeconds({0, 4096}));
  for (const int64_t begin : {8192, 1'024'000}) {
    const double estimation = 2 * (2 * 2 * 64 * 512.0) * (static_cast<double>(begin) + 1024);
    const double flops = 2048 * (kProducts + 4 * 512 * (100 + 10 * 84)) + estimation;
    EXPECT_NEAR(costs.LayerSeconds({begin, 2048}) / (flops / 1e12), 1, 1e-9);
  }
  // A chunk that begins before the first sparse piece is dense up to there.
  const double linear = 2048 * kProducts / 1e12;
  EXPECT_NEAR(costs.LayerSeconds({3072, 2048}),
              costs.LayerSeconds({3072, 1024}) + costs.LayerSeconds({4096, 1024}), 1e-9 * linear);
}

TEST(GpuPrefillCosts, AUnitLongerThanTheLimitIsCutBetweenLayers) {
  const Chunk chunk = {0, 4096};
  const double layer =
      GpuPrefillCosts(SmallModel(), PlainGpu(), {3}, kUnbounded).LayerSeconds(chunk);
  const struct {
    double limit;
    double expected;
  } cases[] = {
      {0.5 + 3 * layer, 0.5 + 3 * layer}, {0.5 + 2.9 * layer, 1.0 + 3 * layer},
      {0.5 + 2 * layer, 1.0 + 3 * layer}, {0.5 + 1.9 * layer, 1.5 + 3 * layer},
      {0.5 + 0.9 * layer, kUnbounded},    {0.1, kUnbounded},
  };
  for (const auto& c : cases) {
    const GpuPrefillCosts costs(SmallModel(), PlainGpu(), {3}, c.limit * (1 + 1e-12));
    EXPECT_DOUBLE_EQ(costs.StageSeconds(0, chunk, false), c.expected) << "limit=" << c.limit;
  }
}

TEST(GpuPrefillCosts, MoreHistoryNeverCostsLess) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed=" << seed);
  std::mt19937 random(seed);
  const GpuPrefillCosts costs(SmallModel(), GpuCosts::Find("h100-80g").value(), {3}, kUnbounded);
  for (int round = 0; round < 1000; ++round) {
    const int64_t begin = static_cast<int64_t>(random() % 1'000'000);
    const int64_t count = 1 + static_cast<int64_t>(random() % 100'000);
    const double seconds = costs.LayerSeconds({begin, count});
    EXPECT_GE(costs.LayerSeconds({begin + begin / 2 + 1000, count}), seconds);
    // Rates wobble with the size, but a chunk of twice the rows is never cheaper.
    EXPECT_GE(costs.LayerSeconds({begin, 2 * count}), seconds);
  }
}

}  // namespace
}  // namespace longhaul::planning
