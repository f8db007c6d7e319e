// The real models' shapes on the checked-in H100 table: what a pipeline of them must reach.
#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "common/cost_model.h"
#include "common/planning/chunk_search.h"
#include "common/planning/even_chunks.h"
#include "common/planning/gpu_prefill_costs.h"
#include "common/planning/layer_split.h"

namespace longhaul::planning {
namespace {

constexpr double kUnbounded = std::numeric_limits<double>::infinity();
constexpr int64_t kPrompt = 1'000'000;
constexpr CutRules kRules = {.max_chunk_tokens = 131'072};

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

ModelConfig Qwen14B() {
  ModelConfig model = Qwen7B();
  model.num_layers = 48;
  model.hidden_size = 5120;
  model.intermediate_size = 13824;
  model.num_heads = 40;
  model.num_kv_heads = 8;
  return model;
}

GpuPrefillCosts CostsOf(const ModelConfig& model, int stages, double max_step_seconds) {
  return GpuPrefillCosts(model, GpuCosts::Find("h100-80g").value(),
                         EvenLayerSplit(model.num_layers, stages).value(), max_step_seconds);
}

double OneStageSeconds(const ModelConfig& model) {
  return FastestChunks(CostsOf(model, 1, kUnbounded), kPrompt, kRules, 1)->run.ttft_seconds;
}

TEST(H100Plan, OneCardsTimeIsItsWorkAtTheRatesMeasured) {
  // 7B: 200.7 PFLOP of attention at 599 to 639 TFLOP/s, 13.1 of products at 754, elementwise 1.8 s.
  const double seconds = OneStageSeconds(Qwen7B());
  EXPECT_GT(seconds, 200.7e3 / 639 + 13.1e3 / 754 + 1.8);
  EXPECT_LT(seconds, 1.02 * (200.7e3 / 599 + 13.1e3 / 754 + 1.8));
}

TEST(H100Plan, PipelinesReachTheirEfficiency) {
  const struct {
    const char* name;
    ModelConfig model;
    int stages;
    double least;
  } cases[] = {
      {"7B on 2", Qwen7B(), 2, 0.98},
      {"7B on 4", Qwen7B(), 4, 0.965},
      {"14B on 8", Qwen14B(), 8, 0.94},
  };
  for (const auto& c : cases) {
    const double one = OneStageSeconds(c.model);
    for (const double max_step_seconds : {0.5, kUnbounded}) {
      const GpuPrefillCosts costs = CostsOf(c.model, c.stages, max_step_seconds);
      const auto efficiency = [&](const absl::StatusOr<ChunkPlan>& plan) {
        return one / (c.stages * plan.value().run.ttft_seconds);
      };
      const double dynamic = efficiency(FastestChunks(costs, kPrompt, kRules, c.stages + 1));
      const double fixed = efficiency(FastestFixedChunks(costs, kPrompt, kRules, c.stages + 1));
      EXPECT_GE(dynamic, c.least) << c.name << ", longest step " << max_step_seconds;
      EXPECT_LE((1 / dynamic - 1) / (1 / fixed - 1), 0.75)
          << c.name << ", longest step " << max_step_seconds << ": " << dynamic << ", " << fixed;
    }
  }
}

// The engine has no time for the search, and knows only coefficients fitted to units it has seen.
TEST(H100Plan, EvenChunksFromFittedCoefficientsReachThemToo) {
  const struct {
    const char* name;
    ModelConfig model;
    int stages;
    double least;
  } cases[] = {
      {"7B on 2", Qwen7B(), 2, 0.98},
      {"7B on 4", Qwen7B(), 4, 0.965},
      {"14B on 8", Qwen14B(), 8, 0.94},
  };
  for (const auto& c : cases) {
    const GpuPrefillCosts costs = CostsOf(c.model, c.stages, kUnbounded);
    CostModel model;
    for (int64_t begin = 0; begin < kPrompt; begin += 8192) {
      for (const int64_t count : {1024, 2048, 4096, 8192}) {
        UnitShape shape;
        shape.Add(begin, count);
        model.Observe(shape, costs.StageSeconds(0, {.begin = begin, .count = count}, false));
      }
    }
    std::vector<Chunk> chunks;
    for (int64_t begin = 0; begin < kPrompt; begin = chunks.back().end()) {
      const int64_t count = EvenChunkTokens(model.coefficients(), c.stages, begin, kPrompt, kRules);
      chunks.push_back({.begin = begin, .count = count});
    }
    const double seconds = SimulatePrefill(costs, chunks, c.stages + 1).ttft_seconds;
    EXPECT_GE(OneStageSeconds(c.model) / (c.stages * seconds), c.least) << c.name;
  }
}

TEST(H100Plan, LayersThatDoNotDivideBoundTheEfficiency) {
  const GpuPrefillCosts costs = CostsOf(Qwen7B(), 8, kUnbounded);
  const ChunkPlan plan = FastestChunks(costs, kPrompt, kRules, 9).value();
  const double efficiency = OneStageSeconds(Qwen7B()) / (8 * plan.run.ttft_seconds);
  EXPECT_LT(efficiency, 0.875);
  EXPECT_GT(efficiency, 0.82);
  EXPECT_GT(plan.run.stages[7].bubble, plan.run.stages[0].bubble);
}

}  // namespace
}  // namespace longhaul::planning
