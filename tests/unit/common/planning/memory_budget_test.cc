#include "common/planning/memory_budget.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "common/types.h"

namespace longhaul::planning {
namespace {

using testing::HasSubstr;

constexpr DualChunkConfig kDualChunk = {
    .chunk_size = 262'144, .local_size = 8192, .original_max_position_embeddings = 262'144};

ModelConfig Model7B() {
  ModelConfig model;
  model.num_layers = 28;
  model.hidden_size = 3584;
  model.intermediate_size = 18'944;
  model.num_heads = 28;
  model.num_kv_heads = 4;
  model.head_dim = 128;
  model.vocab_size = 152'064;
  model.max_position_embeddings = 1'010'000;
  model.dual_chunk = kDualChunk;
  return model;
}

ModelConfig Model14B() {
  ModelConfig model = Model7B();
  model.num_layers = 48;
  model.hidden_size = 5120;
  model.intermediate_size = 13'824;
  model.num_heads = 40;
  model.num_kv_heads = 8;
  return model;
}

MemoryLimits On80Gb(int64_t max_num_batched_tokens) {
  return {.device_bytes = 85'500'000'000,
          .max_model_len = 1'010'000,
          .max_num_batched_tokens = max_num_batched_tokens};
}

MemoryBudget OneCard(const ModelConfig& model, const MemoryLimits& limits) {
  return BudgetMemory(model, {.num_layers = model.num_layers}, limits);
}

double ShareOf(const MemoryBudget& budget) { return static_cast<double>(budget.Needed()) / 85.5e9; }

std::string ErrorOf(const ModelConfig& model, const std::vector<int>& layers, int32_t num_shards,
                    const MemoryLimits& limits) {
  return std::string(CheckMemory(model, layers, num_shards, limits).message());
}

// The number behind `name` in an error; -1 without.
double ValueIn(const std::string& error, const std::string& name) {
  const size_t at = error.rfind(name + " ");
  if (at == std::string::npos || error[at + name.size() + 1] == '(') return -1;
  return std::strtod(error.c_str() + at + name.size() + 1, nullptr);
}

TEST(MemoryBudget, The7BAtAMillionTokensFitsAnH100) {
  // By hand: 7,615,616,512 parameters in bf16, of which norms (57 of 3,584) are fp32; 28 layers of
  // 2 x 4 heads x (128 x 2 + 2) bytes a token, in blocks of 256.
  const MemoryBudget budget = OneCard(Model7B(), On80Gb(8192));
  EXPECT_EQ(budget.weights, int64_t{2} * 7'615'616'512 + int64_t{2} * 57 * 3584);
  EXPECT_EQ(budget.kv_block, int64_t{28} * 2 * 4 * 258 * 256);
  EXPECT_EQ(budget.longest_blocks, 3946);
  EXPECT_EQ(budget.short_blocks, 128);
  // 57.9 GB of keys and values, and their scales' places.
  EXPECT_NEAR(static_cast<double>(budget.longest_blocks * budget.kv_block) / 1e9, 57.9 * 258 / 256,
              0.05);
  EXPECT_TRUE(budget.Fits());
  EXPECT_GE(budget.KvBlocks(), budget.longest_blocks + budget.short_blocks);
  EXPECT_TRUE(CheckMemory(Model7B(), std::vector<int>{28}, 1, On80Gb(8192)).ok());
}

TEST(MemoryBudget, SharesOfACardAreNearThoseOfTheDesign) {
  // The design counted 0.887 with the MLP in tiles of 8,192 rows: weights, KV, workspaces of 1.5 GB
  // and 1.2 GB of activations. This counts 0.022 more for 32,768 tokens of short requests, 0.005
  // for the scales' places, and up to four residual streams (units that wait between layers).
  const double share = ShareOf(OneCard(Model7B(), On80Gb(8192)));
  EXPECT_NEAR(share, 0.887 + 0.022 + 0.005, 0.008);
  // A step of 2,048 tokens has no more rows for the MLP either: 3 x 18,944 bf16 values each.
  EXPECT_NEAR(share - ShareOf(OneCard(Model7B(), On80Gb(2048))),
              6144.0 * (6 * 18'944 + 45'056 + 4 * 7168 + 4 * 1536) / 85.5e9, 0.001);
  // The MLP's tile stays: what grows with the chunk is 45,056 bytes a row for a layer's matrices,
  // 4 x 7,168 for residual streams, 4 x 1,536 for cosines and sines. The design's 0.928 and 0.980
  // are of MLP tiles of 32,768 and 63,488 rows.
  const double growth =
      ShareOf(OneCard(Model7B(), On80Gb(32'768))) - ShareOf(OneCard(Model7B(), On80Gb(8192)));
  EXPECT_NEAR(growth, 24'576.0 * (45'056 + 4 * 7168 + 4 * 1536) / 85.5e9, 0.001);
}

TEST(MemoryBudget, WhatDoesNotFitNamesThreeSettingsOfWhichEachAloneWouldDo) {
  const std::vector<int> layers = {28};
  const MemoryLimits limits = On80Gb(126'976);
  EXPECT_FALSE(OneCard(Model7B(), limits).Fits());
  const std::string error = ErrorOf(Model7B(), layers, 1, limits);
  EXPECT_THAT(error, HasSubstr("1010000 tokens (--max-model-len) in steps of 126976"));

  MemoryLimits changed = limits;
  changed.max_model_len = static_cast<int64_t>(ValueIn(error, "--max-model-len"));
  EXPECT_GT(changed.max_model_len, 800'000) << error;
  EXPECT_TRUE(CheckMemory(Model7B(), layers, 1, changed).ok()) << error;
  changed.max_model_len += kKvBlockTokens;
  EXPECT_FALSE(CheckMemory(Model7B(), layers, 1, changed).ok()) << error;

  changed = limits;
  changed.max_num_batched_tokens = static_cast<int64_t>(ValueIn(error, "--max-num-batched-tokens"));
  EXPECT_GT(changed.max_num_batched_tokens, 8192) << error;
  EXPECT_TRUE(CheckMemory(Model7B(), layers, 1, changed).ok()) << error;
  changed.max_num_batched_tokens += kKvBlockTokens;
  EXPECT_FALSE(CheckMemory(Model7B(), layers, 1, changed).ok()) << error;

  // 0.98 is not enough for such a step, but for a smaller one it is.
  EXPECT_EQ(ValueIn(error, "--gpu-memory-utilization"), -1) << error;
  const std::string smaller = ErrorOf(Model7B(), layers, 1, On80Gb(32'768));
  changed = On80Gb(32'768);
  changed.utilization = ValueIn(smaller, "--gpu-memory-utilization");
  EXPECT_GT(changed.utilization, 0.92) << smaller;
  EXPECT_TRUE(CheckMemory(Model7B(), layers, 1, changed).ok()) << smaller;
  changed.utilization -= 0.001;
  EXPECT_FALSE(CheckMemory(Model7B(), layers, 1, changed).ok()) << smaller;
}

TEST(MemoryBudget, The14BFitsNoSingleCardAtAMillionTokensAndFarFewerOnTwo) {
  EXPECT_FALSE(OneCard(Model14B(), On80Gb(8192)).Fits());
  const std::string one = ErrorOf(Model14B(), {48}, 1, On80Gb(8192));
  // 29.5 GB of weights leave 43 GB, at 198,144 bytes a token.
  EXPECT_NEAR(ValueIn(one, "--max-model-len"), 197'000, 15'000) << one;

  // The design says about 0.64M tokens on two cards, without room for short requests (3.2 GB of a
  // card), a communicator (0.4), and what a step of 8,192 tokens takes beside
  // the MLP's tile (1.0).
  const std::string two = ErrorOf(Model14B(), {48}, 2, On80Gb(8192));
  EXPECT_NEAR(ValueIn(two, "--max-model-len"), 575'000, 20'000) << two;
  const std::string stages = ErrorOf(Model14B(), {24, 24}, 1, On80Gb(8192));
  EXPECT_NEAR(ValueIn(stages, "--max-model-len"), 560'000, 30'000) << stages;
  EXPECT_TRUE(CheckMemory(Model14B(), std::vector<int>{48}, 4, On80Gb(8192)).ok());
}

TEST(MemoryBudget, WhatNoSettingCuresSaysSo) {
  MemoryLimits limits = On80Gb(2048);
  limits.device_bytes = 16'000'000'000;
  EXPECT_THAT(ErrorOf(Model7B(), {28}, 1, limits), HasSubstr("None of --max-model-len,"));
}

TEST(MemoryBudget, TheTightestRankOfAGroupDecides) {
  const MemoryLimits limits = On80Gb(2048);
  // The stage with most layers has room for the fewest blocks.
  const MemoryBudget uneven = BudgetTightestRank(Model7B(), std::vector<int>{8, 20}, 1, limits);
  EXPECT_EQ(uneven.kv_block, OneCard(Model7B(), limits).kv_block / 28 * 20);
  // Of equal stages that with the head: logits come to what the embedding's stage has not.
  const MemoryBudget even = BudgetTightestRank(Model7B(), std::vector<int>{14, 14}, 1, limits);
  EXPECT_GT(even.logits, 0);
  // Of equal shards the first, which gathers the logits.
  const MemoryBudget shards = BudgetTightestRank(Model7B(), std::vector<int>{28}, 4, limits);
  EXPECT_EQ(shards.logits,
            BudgetMemory(Model7B(), {.num_layers = 28, .num_shards = 4}, limits).logits);
  EXPECT_GT(
      shards.logits,
      BudgetMemory(Model7B(), {.num_layers = 28, .shard = 1, .num_shards = 4}, limits).logits);
}

TEST(MemoryBudget, AShardHasItsPartOfTheModel) {
  const MemoryLimits limits = On80Gb(2048);
  const MemoryBudget whole = OneCard(Model7B(), limits);
  const MemoryBudget half = BudgetMemory(Model7B(), {.num_layers = 28, .num_shards = 2}, limits);
  EXPECT_EQ(half.kv_block, whole.kv_block / 2);
  // All but norms and the embedding's row of zeros is shared.
  EXPECT_NEAR(static_cast<double>(half.weights), static_cast<double>(whole.weights) / 2, 1e6);
  EXPECT_GT(half.activations, whole.activations / 2);
  EXPECT_LT(half.activations, whole.activations);
}

TEST(MemoryBudget, ATiedHeadIsThereOnce) {
  ModelConfig tied = Model7B();
  tied.tie_word_embeddings = true;
  const int64_t matrix = int64_t{152'064} * 3584 * 2;
  EXPECT_EQ(OneCard(Model7B(), On80Gb(2048)).weights - OneCard(tied, On80Gb(2048)).weights, matrix);
  const RankPart last = {.num_layers = 14, .has_embedding = false, .num_stages = 2};
  EXPECT_EQ(BudgetMemory(Model7B(), last, On80Gb(2048)).weights,
            BudgetMemory(tied, last, On80Gb(2048)).weights);
}

}  // namespace
}  // namespace longhaul::planning
