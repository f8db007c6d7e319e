#include "worker/model/qwen2.h"

#include <cmath>
#include <numeric>

#include "tests/testing/forwarding_backend.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"
#include "worker/backend/cpu_backend.h"
#include "worker/model/checkpoint.h"

namespace longhaul::worker::model {
namespace {

using ::longhaul::testing::TinyModel;

constexpr AttentionOptions kPosition{.temperature = AttentionTemperature::kPosition};
constexpr AttentionOptions kRequest{.temperature = AttentionTemperature::kRequest};

// original_max of the tiny model is 600.
TEST(TemperatureFactor, IsOneUpToTheTrainedLength) {
  const ModelConfig config = TinyModel{}.Config();
  EXPECT_EQ(TemperatureFactor(kPosition, config, 0, 4000), 1);
  EXPECT_EQ(TemperatureFactor(kPosition, config, 599, 4000), 1);
  EXPECT_GT(TemperatureFactor(kPosition, config, 600, 601), 1);
  EXPECT_EQ(TemperatureFactor(kRequest, config, 0, 600), 1);
}

TEST(TemperatureFactor, FollowsThePositionOrThePrompt) {
  const ModelConfig config = TinyModel{}.Config();
  const double f1200 = 0.1 * std::log(2.0) + 1;
  const double f2400 = 0.1 * std::log(4.0) + 1;
  EXPECT_DOUBLE_EQ(TemperatureFactor(kPosition, config, 1199, 2400), f1200);
  EXPECT_DOUBLE_EQ(TemperatureFactor(kRequest, config, 1199, 2400), f2400);
  EXPECT_DOUBLE_EQ(TemperatureFactor(kRequest, config, 0, 2400), f2400);
}

TEST(TemperatureFactor, OfGeneratedTokensIsTheCurrentLengthInBothModes) {
  const ModelConfig config = TinyModel{}.Config();
  const double f2400 = 0.1 * std::log(4.0) + 1;
  EXPECT_DOUBLE_EQ(TemperatureFactor(kPosition, config, 2399, 1000), f2400);
  EXPECT_DOUBLE_EQ(TemperatureFactor(kRequest, config, 2399, 1000), f2400);
}

TEST(TemperatureFactor, IsThePublishedOneAtAMillionTokens) {
  ModelConfig config = TinyModel{}.Config();
  config.dual_chunk->original_max_position_embeddings = 262144;
  EXPECT_NEAR(TemperatureFactor(kRequest, config, 5, 1'000'000), 1.1339, 5e-5);
}

TEST(TemperatureFactor, IsOneForPlainRope) {
  ModelConfig config = TinyModel{}.Config();
  EXPECT_EQ(TemperatureFactor({.dual_chunk = false}, config, 3000, 3001), 1);
  config.dual_chunk->original_max_position_embeddings = 0;
  EXPECT_EQ(TemperatureFactor(kPosition, config, 3000, 3001), 1);
  config.dual_chunk.reset();
  EXPECT_EQ(TemperatureFactor(kPosition, config, 3000, 3001), 1);
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

TEST(Qwen2, TakesTheMemoryForAUnitThatItSays) {
  const TinyModel model;
  const ModelConfig config = model.Config();
  const ::longhaul::testing::TempDir folder;
  model.Write(folder.path());
  ASSERT_OK_AND_ASSIGN(const Checkpoint checkpoint, Checkpoint::Open(folder.path()));
  CountingBackend backend;
  ASSERT_OK_AND_ASSIGN(Weights weights, LoadWeights(config, checkpoint, {.layer_end = 3}, backend));
  Qwen2 qwen2(config, kPosition, std::move(weights), backend);
  backend.allocated = 0;
  constexpr int64_t kRows = 9000;  // more than the MLP takes at a time
  const std::vector<TokenId> ids(kRows, 7);
  std::vector<BlockId> block_table(kRows / kKvBlockTokens + 1);
  std::iota(block_table.begin(), block_table.end(), 0);
  const std::vector<ModelSlice> slices = {
      {.token_ids = ids, .prompt_tokens = kRows, .block_table = block_table}};
  Activations activations;
  ASSERT_OK(qwen2.Begin(slices, activations));
  const int64_t said = Qwen2::UnitBytes(config, 1, DType::kFloat32, kRows);
  EXPECT_LE(backend.allocated, said);
  // The rest is for the plan, which here is no memory of the device.
  EXPECT_GE(backend.allocated, said - kRows * 2 * (3 * 64 * 4 + 64));
}

}  // namespace
}  // namespace longhaul::worker::model
