#include "worker/model/qwen2.h"

#include <cmath>

#include "tests/testing/status_matchers.h"
#include "tests/testing/tiny_model.h"

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

}  // namespace
}  // namespace longhaul::worker::model
