#include "common/model_config.h"

#include <gtest/gtest.h>

#include "tests/testing/paths.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"

namespace longhaul {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::StatusIs;

constexpr char kSmall[] = R"({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2",
  "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
  "num_key_value_heads": 2, "vocab_size": 128, "max_position_embeddings": 4096,
  "rope_theta": 10000.0, "rms_norm_eps": 1e-6, "tie_word_embeddings": true, "eos_token_id": 7,
  "dual_chunk_attention_config": {"chunk_size": 1024, "local_size": 256,
                                  "original_max_position_embeddings": 1024}})";

// kSmall with one piece of text replaced.
std::string Changed(const std::string& from, const std::string& to) {
  std::string text = kSmall;
  const size_t at = text.find(from);
  CHECK(at != std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

TEST(ModelConfig, ReadsTheDemoModel) {
  ASSERT_OK_AND_ASSIGN(const ModelConfig config,
                       ModelConfig::Load(testing::SourcePath("models/demo")));
  EXPECT_EQ(config.num_layers, 4);
  EXPECT_EQ(config.head_dim, 128);  // explicit, not hidden_size / num_heads
  EXPECT_TRUE(config.tie_word_embeddings);
  ASSERT_TRUE(config.dual_chunk.has_value());
  EXPECT_EQ(config.dual_chunk->chunk_len(), 3072);
}

TEST(ModelConfig, ReadsThePublishedModels) {
  const std::string folder = testing::SharedPath("models/qwen2.5-7b-instruct-1m");
  if (folder.empty()) GTEST_SKIP() << "the published configurations are not beside this checkout";
  ASSERT_OK_AND_ASSIGN(const ModelConfig config, ModelConfig::Load(folder));
  EXPECT_EQ(config.num_heads, 28);
  EXPECT_EQ(config.num_kv_heads, 4);
  EXPECT_EQ(config.head_dim, 128);
  EXPECT_FALSE(config.tie_word_embeddings);
  EXPECT_EQ(config.dual_chunk->chunk_len(), 253952);
  ASSERT_OK_AND_ASSIGN(const GenerationDefaults defaults, GenerationDefaults::Load(folder));
  EXPECT_EQ(defaults.top_k, 20);
  EXPECT_THAT(defaults.eos_token_ids, ElementsAre(151645, 151643));
  ASSERT_OK_AND_ASSIGN(const ModelConfig large,
                       ModelConfig::Load(testing::SharedPath("models/qwen2.5-14b-instruct-1m")));
  EXPECT_EQ(large.num_layers, 48);
}

TEST(ModelConfig, TakesHeadDimFromHiddenSizeWhereItIsAbsent) {
  testing::TempDir dir;
  dir.Write("config.json", kSmall);
  ASSERT_OK_AND_ASSIGN(const ModelConfig config, ModelConfig::Load(dir.path()));
  EXPECT_EQ(config.head_dim, 16);
}

TEST(ModelConfig, WithoutDualChunkConfigIsPlainRope) {
  testing::TempDir dir;
  dir.Write("config.json", Changed("\"dual_chunk_attention_config\"", "\"other\""));
  ASSERT_OK_AND_ASSIGN(const ModelConfig config, ModelConfig::Load(dir.path()));
  EXPECT_FALSE(config.dual_chunk.has_value());
}

TEST(ModelConfig, RefusesWhatItCannotServeNamingFileAndField) {
  const struct {
    const char* from;
    const char* to;
    absl::StatusCode code;
    const char* expected;
  } kCases[] = {
      {"\"model_type\": \"qwen2\"", "\"model_type\": \"llama\"", absl::StatusCode::kUnimplemented,
       "model_type is \"llama\""},
      {"Qwen2ForCausalLM", "Qwen2ForScoring", absl::StatusCode::kUnimplemented, "architectures"},
      {"\"hidden_size\": 64,", "", absl::StatusCode::kInvalidArgument, "hidden_size is missing"},
      {"\"hidden_size\": 64", "\"hidden_size\": \"64\"", absl::StatusCode::kInvalidArgument,
       "hidden_size must be a whole number"},
      {"\"hidden_size\": 64", "\"hidden_size\": -64", absl::StatusCode::kInvalidArgument,
       "hidden_size is -64"},
      {"\"hidden_size\": 64", "\"hidden_size\": 99999999999999999999",
       absl::StatusCode::kInvalidArgument, "hidden_size"},
      {"\"hidden_size\": 64", "\"hidden_size\": 18446744073709551615",
       absl::StatusCode::kInvalidArgument, "hidden_size"},
      {"\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3",
       absl::StatusCode::kInvalidArgument, "must divide num_attention_heads 4"},
      {"\"hidden_size\": 64", "\"hidden_size\": 63", absl::StatusCode::kInvalidArgument,
       "head_dim"},
      {"\"local_size\": 256", "\"local_size\": 255", absl::StatusCode::kInvalidArgument,
       "chunk_size - local_size is 769"},
      {"\"local_size\": 256", "\"local_size\": 1024", absl::StatusCode::kInvalidArgument,
       "chunk_size - local_size is 0"},
      {"\"rope_theta\"", "\"rope_scaling\": {\"type\": \"yarn\"}, \"rope_theta\"",
       absl::StatusCode::kUnimplemented, "rope_scaling"},
      {"\"rope_theta\"", "\"use_sliding_window\": true, \"rope_theta\"",
       absl::StatusCode::kUnimplemented, "use_sliding_window"},
      {"{", "[", absl::StatusCode::kInvalidArgument, "not a JSON object"},
  };
  for (const auto& test : kCases) {
    SCOPED_TRACE(test.to);
    testing::TempDir dir;
    const std::string file = dir.Write("config.json", Changed(test.from, test.to));
    EXPECT_THAT(ModelConfig::Load(dir.path()),
                StatusIs(test.code, AllOf(HasSubstr(file), HasSubstr(test.expected))));
  }
}

TEST(ModelConfig, MissingFolderIsNamed) {
  EXPECT_THAT(ModelConfig::Load("/nonexistent/model"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("/nonexistent/model/config.json")));
}

TEST(GenerationDefaults, ReadsTheDemoModel) {
  ASSERT_OK_AND_ASSIGN(const GenerationDefaults defaults,
                       GenerationDefaults::Load(testing::SourcePath("models/demo")));
  EXPECT_FALSE(defaults.do_sample);
  EXPECT_THAT(defaults.eos_token_ids, ElementsAre(2042, 2040));
}

TEST(GenerationDefaults, WithoutAFileTakesTheEndTokenOfTheConfig) {
  testing::TempDir dir;
  dir.Write("config.json", kSmall);
  ASSERT_OK_AND_ASSIGN(const GenerationDefaults defaults, GenerationDefaults::Load(dir.path()));
  EXPECT_THAT(defaults.eos_token_ids, ElementsAre(7));
  EXPECT_EQ(defaults.temperature, 1.0);
}

}  // namespace
}  // namespace longhaul
