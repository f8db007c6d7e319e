#include "common/planning/sparse_settings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/testing/paths.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"

namespace longhaul::planning {
namespace {

using ::testing::HasSubstr;

ModelConfig TwoLayers() {
  ModelConfig model;
  model.num_layers = 2;
  model.dual_chunk = DualChunkConfig{.chunk_size = 262144, .local_size = 8192};
  return model;
}

constexpr const char* kTwoLayers = R"([
  {"0": ["vertical_and_slash", 1000, 6096, 0.9], "1": ["vertical_and_slash", 3000, 8144, 0.8]},
  {"0": ["vertical_and_slash", 1000, 6096, 0.9], "1": ["vertical_and_slash", 5000, 9904, 0.8]}])";

TEST(SparseSettings, AreMeanBudgetsAndThePiecesOfASegment) {
  const testing::TempDir dir;
  dir.Write("sparse_attention_config.json", kTwoLayers);
  ASSERT_OK_AND_ASSIGN(const SparseSettings settings,
                       SparseSettings::Load(dir.path(), TwoLayers()));
  EXPECT_EQ(settings.piece_tokens, 15'872);
  EXPECT_EQ(settings.begin, 47'616);  // the first piece that starts at 32,768 or later
  EXPECT_EQ(settings.columns, 2500);
  EXPECT_EQ(settings.slashes, 7560);
}

TEST(SparseSettings, OfThePublished7B) {
  const std::string model = testing::SharedPath("models/qwen2.5-7b-instruct-1m");
  if (model.empty()) {
    GTEST_SKIP() << "skipped: LONGHAUL_SHARED has no models/qwen2.5-7b-instruct-1m";
  }
  ASSERT_OK_AND_ASSIGN(const ModelConfig config, ModelConfig::Load(model));
  ASSERT_OK_AND_ASSIGN(const SparseSettings settings, SparseSettings::Load(model, config));
  EXPECT_NEAR(settings.columns, 3929, 20);
  EXPECT_NEAR(settings.slashes, 7650, 1);
}

TEST(SparseSettings, NameTheFileAndWhatIsWrongWithIt) {
  const testing::TempDir dir;
  const auto error_of = [&dir](const ModelConfig& model) {
    return std::string(SparseSettings::Load(dir.path(), model).status().message());
  };
  EXPECT_TRUE(absl::IsNotFound(SparseSettings::Load(dir.path(), TwoLayers()).status()));
  EXPECT_THAT(error_of({}), HasSubstr("has no dual_chunk_attention_config"));
  const struct {
    const char* text;
    const char* message;
  } cases[] = {
      {"", "must be a list of 2 layers"},
      {"[{}]", "must be a list of 2 layers"},
      {"[{}, {}]", "has no heads"},
      {"[1, {}]", "a layer must be an object"},
      {R"([{"0": ["block", 1, 2, 3]}, {}])", "head 0 is [\"block\",1,2,3], must be"},
      {R"([{"0": ["vertical_and_slash", -1, 2, 3]}, {}])", "head 0 is"},
      {R"([{"0": ["vertical_and_slash", 1, 2]}, {}])", "head 0 is"},
  };
  for (const auto& c : cases) {
    dir.Write("sparse_attention_config.json", c.text);
    EXPECT_THAT(error_of(TwoLayers()), HasSubstr(dir.path() + "/sparse_attention_config.json"));
    EXPECT_THAT(error_of(TwoLayers()), HasSubstr(c.message)) << c.text;
  }
  dir.Write("sparse_attention_config.json", kTwoLayers);
  ModelConfig odd = TwoLayers();
  odd.dual_chunk->local_size = 8192 + 1;
  EXPECT_THAT(error_of(odd), HasSubstr("no piece of a multiple of 128"));
}

}  // namespace
}  // namespace longhaul::planning
