#include "cli/memory_forecast.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <string>

#include "cli/memory_report.h"
#include "cli/plan.h"
#include "tests/testing/paths.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"
#include "tests/unit/cli/config_7b.h"

namespace longhaul::cli {
namespace {

using ::testing::HasSubstr;

PlanConfig On(const std::string& gpu, int32_t max_model_len = 1'010'000) {
  PlanConfig config;
  config.gpu = gpu;
  config.max_model_len = max_model_len;
  return config;
}

class MemoryForecastTest : public ::testing::Test {
 protected:
  MemoryForecastTest() { dir_.Write("config.json", kConfig7B); }

  std::string Model() const { return dir_.path(); }
  absl::StatusOr<MemoryForecast> Make(const PlanConfig& config) const {
    return MemoryForecast::Make(Model(), config);
  }
  std::string ErrorOf(const PlanConfig& config) const {
    return std::string(Make(config).status().message());
  }

  testing::TempDir dir_;
};

TEST_F(MemoryForecastTest, The7BAtAMillionTokensFitsOneH100WithATimeToItsFirstToken) {
  ASSERT_OK_AND_ASSIGN(const MemoryForecast forecast, Make(On("h100-80g:1")));
  EXPECT_OK(forecast.fits);
  EXPECT_EQ(forecast.num_cards(), 1);
  EXPECT_EQ(forecast.card_bytes, 84'930'000'000);
  EXPECT_EQ(forecast.limits.device_bytes, 84'430'000'000);
  EXPECT_EQ(forecast.limits.max_num_batched_tokens, 2048);
  EXPECT_EQ(forecast.published_bytes, 120'000'000'000);
  EXPECT_LT(forecast.tightest.Needed(), forecast.tightest.usable);
  // 17.6 s of products, 1.8 of elementwise passes, 332 of attention; chunks of 2,048 cost 5 ms each
  // and reach 0.95 of the products' rate.
  ASSERT_TRUE(forecast.ttft_seconds.has_value());
  EXPECT_NEAR(*forecast.ttft_seconds, 364, 5);
}

TEST_F(MemoryForecastTest, APromptMayBeShorterThanTheLongestRequest) {
  PlanConfig config = On("h100-80g:1");
  config.prompt_tokens = 131'072;
  ASSERT_OK_AND_ASSIGN(const MemoryForecast forecast, Make(config));
  ASSERT_TRUE(forecast.ttft_seconds.has_value());
  EXPECT_LT(*forecast.ttft_seconds, 12);
  config.prompt_tokens = 1'010'001;
  EXPECT_THAT(ErrorOf(config), HasSubstr("--prompt-tokens is 1010001, --max-model-len 1010000"));
}

TEST_F(MemoryForecastTest, CardsShareLayersUnlessStagesAreAskedFor) {
  ASSERT_OK_AND_ASSIGN(const MemoryForecast one, Make(On("h100-80g:1")));
  ASSERT_OK_AND_ASSIGN(const MemoryForecast shards, Make(On("h100-80g:2")));
  EXPECT_EQ(shards.num_shards, 2);
  EXPECT_EQ(shards.layers, (std::vector<int>{28}));
  // Half of the work, and 410 GB summed at 330 GB/s.
  EXPECT_NEAR(*shards.ttft_seconds, *one.ttft_seconds / 2 + 1.24, 4);

  PlanConfig config = On("h100-80g:4");
  config.pipeline_parallel_size = 2;
  ASSERT_OK_AND_ASSIGN(const MemoryForecast both, Make(config));
  EXPECT_EQ(both.num_shards, 2);
  EXPECT_EQ(both.layers, (std::vector<int>{14, 14}));
  EXPECT_LT(both.tightest.Needed(), shards.tightest.Needed());
  EXPECT_LT(*both.ttft_seconds, 0.55 * *shards.ttft_seconds);
}

TEST_F(MemoryForecastTest, NamesTheSettingThatIsWrong) {
  EXPECT_THAT(ErrorOf(On("h100-80g:1", 1'010'001)),
              HasSubstr("--max-model-len is 1010001, the model's limit is 1010000"));
  EXPECT_THAT(ErrorOf(On("abacus:1")), HasSubstr("there is one for h100-80g, h200-141g"));
  EXPECT_THAT(ErrorOf(On("h100-80g:3")), HasSubstr("must divide the 4 KV heads"));
  PlanConfig config = On("h100-80g:3");
  config.pipeline_parallel_size = 2;
  EXPECT_THAT(ErrorOf(config),
              HasSubstr("--gpu is h100-80g:3, must be --tensor-parallel-size x 2"));
  config = On("h100-80g:2");
  config.tensor_parallel_size = 4;
  EXPECT_THAT(ErrorOf(config),
              HasSubstr("--gpu is h100-80g:2, must be --tensor-parallel-size x 1"));
  config = On("h100-80g:1");
  config.max_num_batched_tokens = 319;
  EXPECT_THAT(ErrorOf(config), HasSubstr("must be at least --max-num-seqs + 256 = 320"));
  config = On("h100-80g:1");
  config.attention = "sparse";
  EXPECT_THAT(ErrorOf(config), HasSubstr("sparse_attention_config.json"));
}

TEST_F(MemoryForecastTest, PrintsItsFiguresForPeopleAndForPrograms) {
  ASSERT_OK_AND_ASSIGN(const MemoryForecast forecast, Make(On("h100-80g:1")));
  const nlohmann::json json = nlohmann::json::parse(MemoryJson("a \"model\" \xff", forecast));
  int64_t sum = 0;
  for (const char* part :
       {"weights_bytes", "kv_longest_bytes", "kv_short_bytes", "activations_bytes", "logits_bytes",
        "workspaces_bytes", "runtime_bytes"}) {
    sum += json[part].get<int64_t>();
  }
  EXPECT_EQ(json["needed_bytes"], sum);
  EXPECT_EQ(json["kv_tokens"], json["kv_blocks"].get<int64_t>() * 256);
  EXPECT_EQ(json["fits"], true);
  EXPECT_EQ(json["published_bytes"], 120'000'000'000);
  EXPECT_EQ(json["ttft_s"], *forecast.ttft_seconds);
  EXPECT_FALSE(json.contains("message"));

  const std::string text = MemoryText("a model", forecast);
  EXPECT_THAT(text, HasSubstr("a model on 1 x NVIDIA H100 80GB HBM3, SXM: bf16, requests of "
                              "1,010,000 tokens, steps of 2,048\n"));
  EXPECT_THAT(
      text, HasSubstr("\nweights                                         15.23            18.0%"));
  EXPECT_THAT(text, HasSubstr("\nKV of short requests, 32,768 tokens "));
  EXPECT_THAT(
      text,
      HasSubstr("\nallowed (--gpu-memory-utilization 0.92)         77.68            92.0%\n"));
  EXPECT_THAT(text, HasSubstr("Published requirement for 1M tokens: 120 GB of cards."));
  EXPECT_THAT(text, HasSubstr("Expected time to the first token of a prompt of 1,010,000 tokens"));
}

TEST_F(MemoryForecastTest, TheCommandPrintsWhatDoesNotFitAndFails) {
  PlanConfig config = On("h100-80g:1");
  ::testing::internal::CaptureStdout();
  EXPECT_EQ(Plan(Model(), config, {}), 0);
  EXPECT_THAT(::testing::internal::GetCapturedStdout(), HasSubstr("needed"));

  config.gpu_memory_utilization = 0.8;
  ::testing::internal::CaptureStdout();
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(Plan(Model(), config, {.json = true}), 2);
  const nlohmann::json json = nlohmann::json::parse(::testing::internal::GetCapturedStdout());
  const std::string errors = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(json["fits"], false);
  EXPECT_TRUE(json["ttft_s"].is_null());
  EXPECT_EQ("longhaul: " + json["message"].get<std::string>() + "\n", errors);
  EXPECT_THAT(errors, HasSubstr("--max-model-len"));
  EXPECT_THAT(errors, HasSubstr("--max-num-batched-tokens (no value is)"));
  EXPECT_THAT(errors, HasSubstr("--gpu-memory-utilization 0.90"));

  ::testing::internal::CaptureStdout();
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(Plan(Model(), config, {}), 2);
  EXPECT_THAT(::testing::internal::GetCapturedStdout(), HasSubstr("It does not fit."));
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), errors);

  ::testing::internal::CaptureStderr();
  EXPECT_EQ(Plan("/nowhere", config, {}), 2);
  EXPECT_THAT(::testing::internal::GetCapturedStderr(), HasSubstr("/nowhere/config.json"));
}

TEST(MemoryForecast, ThePublished14BNeedsMoreThanOneCard) {
  const std::string model = testing::SharedPath("models/qwen2.5-14b-instruct-1m");
  if (model.empty()) {
    GTEST_SKIP() << "skipped: LONGHAUL_SHARED has no models/qwen2.5-14b-instruct-1m";
  }
  ASSERT_OK_AND_ASSIGN(const MemoryForecast one, MemoryForecast::Make(model, On("h100-80g:1")));
  EXPECT_EQ(one.published_bytes, 320'000'000'000);
  EXPECT_FALSE(one.fits.ok());
  EXPECT_FALSE(one.ttft_seconds.has_value());
  ASSERT_OK_AND_ASSIGN(const MemoryForecast two, MemoryForecast::Make(model, On("h200-141g:2")));
  EXPECT_OK(two.fits);
}

}  // namespace
}  // namespace longhaul::cli
