#include "worker/rank/device_memory.h"

#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "tests/testing/forwarding_backend.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"
#include "worker/backend/cpu_backend.h"
#include "worker/model/checkpoint.h"
#include "worker/model/qwen2.h"
#include "worker/model/weights.h"

namespace longhaul::worker::rank {
namespace {

using ::longhaul::testing::StatusIs;
using ::longhaul::testing::TinyModel;
using ::testing::HasSubstr;

constexpr int64_t kFree = 84'900'000'000;

ModelConfig Model7B() {
  ModelConfig model;
  model.num_layers = 28;
  model.hidden_size = 3584;
  model.intermediate_size = 18'944;
  model.num_heads = 28;
  model.num_kv_heads = 4;
  model.head_dim = 128;
  model.vocab_size = 152'065;  // odd: shards' vocabularies differ
  model.max_position_embeddings = 1'010'000;
  return model;
}

RankConfig OfGroup(int32_t shards, int32_t stages, int32_t rank) {
  RankConfig config;
  config.tensor_parallel_size = shards;
  config.pipeline_parallel_size = stages;
  config.rank = rank;
  return config;
}

GroupShape ShapeOf(const RankConfig& config) {
  return GroupShape::Make({.tensor_parallel_size = config.tensor_parallel_size,
                           .pipeline_parallel_size = config.pipeline_parallel_size,
                           .layer_split = config.layer_split},
                          Model7B())
      .value();
}

TEST(DeviceMemory, CountsTheWeightsAndBlocksThatEachRankOfAGroupHas) {
  const std::unique_ptr<backend::Backend> cpu = backend::MakeCpuBackend(1);
  for (const auto& [shards, stages] : {std::pair{1, 1}, {2, 1}, {1, 3}, {4, 2}}) {
    for (int32_t rank = 0; rank < shards * stages; ++rank) {
      const RankConfig config = OfGroup(shards, stages, rank);
      const GroupShape shape = ShapeOf(config);
      const GroupShape::Layers layers = shape.LayersOf(rank);
      ASSERT_OK_AND_ASSIGN(const planning::MemoryBudget memory,
                           BudgetDeviceMemory(config, Model7B(), shape, kFree));
      EXPECT_EQ(memory.weights, model::WeightBytes(Model7B(),
                                                   {.layer_begin = layers.begin,
                                                    .layer_end = layers.end,
                                                    .tensor_parallel_rank = shape.ShardOf(rank),
                                                    .tensor_parallel_size = shards},
                                                   DType::kBFloat16))
          << "rank " << rank << " of " << shards << " x " << stages;
      // A layer's block has the same size on every device.
      const backend::KvShape kv = {
          .num_kv_heads = 4 / shards, .head_dim = 128, .dtype = backend::KvDType::kBFloat16};
      EXPECT_EQ(memory.kv_block, (layers.end - layers.begin) * cpu->KvLayerBlockBytes(kv));
    }
  }
}

TEST(DeviceMemory, ALongestRequestThatIsAskedForMustFit) {
  RankConfig config = OfGroup(1, 1, 0);
  config.max_model_len = 1'010'000;
  EXPECT_OK(BudgetDeviceMemory(config, Model7B(), ShapeOf(config), kFree));
  EXPECT_THAT(BudgetDeviceMemory(config, Model7B(), ShapeOf(config), kFree / 2),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--max-model-len")));
  // Without, requests are as long as what there is allows.
  config.max_model_len = 0;
  ASSERT_OK_AND_ASSIGN(const planning::MemoryBudget memory,
                       BudgetDeviceMemory(config, Model7B(), ShapeOf(config), kFree / 2));
  EXPECT_GT(memory.KvBlocks(), 1000);
  EXPECT_LT(memory.KvBlocks(), memory.longest_blocks);
  config.max_model_len = 1'010'000;
  config.kv_cache_gib = 10;
  EXPECT_OK(BudgetDeviceMemory(config, Model7B(), ShapeOf(config), kFree / 2));
}

TEST(DeviceMemory, MoreRequestsAtOnceAndLargerStepsTakeMore) {
  RankConfig config = OfGroup(1, 1, 0);
  ASSERT_OK_AND_ASSIGN(const planning::MemoryBudget few,
                       BudgetDeviceMemory(config, Model7B(), ShapeOf(config), kFree));
  config.max_num_seqs = 512;
  ASSERT_OK_AND_ASSIGN(const planning::MemoryBudget many,
                       BudgetDeviceMemory(config, Model7B(), ShapeOf(config), kFree));
  EXPECT_GT(many.logits, few.logits);
  EXPECT_GT(many.workspaces, few.workspaces);
  config.max_num_batched_tokens = 16'384;
  ASSERT_OK_AND_ASSIGN(const planning::MemoryBudget large,
                       BudgetDeviceMemory(config, Model7B(), ShapeOf(config), kFree));
  EXPECT_GT(large.activations, many.activations);
}

// Adds up what is allocated.
class CountingBackend final : public ::longhaul::testing::ForwardingBackend {
 public:
  CountingBackend() : ForwardingBackend(backend::MakeCpuBackend(1)) {}
  absl::StatusOr<backend::DeviceBuffer> Allocate(int64_t bytes) override {
    allocated += bytes;
    return ForwardingBackend::Allocate(bytes);
  }
  int64_t allocated = 0;
};

TEST(DeviceMemory, IsNoLessThanWhatUnitsAllocate) {
  const TinyModel model;
  const ModelConfig config = model.Config();
  const ::longhaul::testing::TempDir folder;
  model.Write(folder.path());
  ASSERT_OK_AND_ASSIGN(const model::Checkpoint checkpoint, model::Checkpoint::Open(folder.path()));
  CountingBackend backend;
  ASSERT_OK_AND_ASSIGN(model::Weights weights,
                       model::LoadWeights(config, checkpoint, {.layer_end = 3}, backend));
  model::Qwen2 qwen2(config, {}, std::move(weights), backend);
  backend.allocated = 0;
  constexpr int64_t kRows = 9000;  // more than the MLP takes at a time
  const std::vector<TokenId> ids(kRows, 7);
  std::vector<BlockId> block_table(kRows / kKvBlockTokens + 1);
  std::iota(block_table.begin(), block_table.end(), 0);
  const std::vector<model::ModelSlice> slices = {
      {.token_ids = ids, .prompt_tokens = kRows, .block_table = block_table}};
  model::Activations units[4];
  for (model::Activations& unit : units) ASSERT_OK(qwen2.Begin(slices, unit));

  const planning::MemoryLimits limits = {.device_bytes = kFree,
                                         .max_model_len = kRows,
                                         .max_num_batched_tokens = kRows,
                                         .max_num_seqs = 1,
                                         .element_bytes = 4};
  const planning::MemoryBudget budget = planning::BudgetMemory(config, {.num_layers = 3}, limits);
  EXPECT_LE(backend.allocated, budget.activations);
  // The rest is for the plans of rows, which here are no memory of the device: cosines and sines of
  // two regions or three, and arrays, with room for 16,384 rows each.
  const int64_t plans =
      4 * int64_t{16'384} * (3 * config.head_dim * 4 + 2 * 28) + (int64_t{1} << 20);
  EXPECT_GE(backend.allocated, budget.activations - plans);
}

}  // namespace
}  // namespace longhaul::worker::rank
