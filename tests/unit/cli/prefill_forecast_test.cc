#include "cli/prefill_forecast.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

#include "cli/forecast_report.h"
#include "cli/plan.h"
#include "tests/testing/paths.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"
#include "tests/unit/cli/config_7b.h"

namespace longhaul::cli {
namespace {

using ::testing::HasSubstr;

class PrefillForecastTest : public ::testing::Test {
 protected:
  PrefillForecastTest() { dir_.Write("config.json", kConfig7B); }

  std::string Model() const { return dir_.path(); }
  std::string ErrorOf(const PlanConfig& config) const {
    return std::string(PrefillForecast::Make(Model(), config).status().message());
  }

  testing::TempDir dir_;
};

PlanConfig OnCards(int num_cards) {
  PlanConfig config;
  config.gpu = "h100-80g:" + std::to_string(num_cards);
  config.pipeline_parallel_size = num_cards;
  config.prompt_tokens = 1'000'000;
  return config;
}

TEST_F(PrefillForecastTest, DynamicChunksReachTheirEfficiencyAndLoseLessThanFixedOnes) {
  ASSERT_OK_AND_ASSIGN(const PrefillForecast forecast, PrefillForecast::Make(Model(), OnCards(4)));
  EXPECT_GE(forecast.Efficiency(forecast.dynamic), 0.965);
  EXPECT_LE(forecast.Loss(forecast.dynamic), 0.75 * forecast.Loss(forecast.best_fixed));
  EXPECT_EQ(forecast.EfficiencyBound(), 1);
  int64_t end = 0;
  for (const planning::Chunk& chunk : forecast.dynamic.chunks) {
    EXPECT_EQ(chunk.begin, end);
    end = chunk.end();
    EXPECT_TRUE(end % 256 == 0 || end == 1'000'000) << end;
  }
  EXPECT_EQ(end, 1'000'000);
  EXPECT_LE(forecast.dynamic.run.longest_stage_seconds, 0.52);
}

TEST_F(PrefillForecastTest, LayersThatDoNotDivideAreEvenAndBoundIt) {
  ASSERT_OK_AND_ASSIGN(const PrefillForecast forecast, PrefillForecast::Make(Model(), OnCards(8)));
  EXPECT_EQ(forecast.layers, (std::vector<int>{4, 4, 4, 4, 3, 3, 3, 3}));
  EXPECT_EQ(forecast.EfficiencyBound(), 0.875);
  EXPECT_LT(forecast.Efficiency(forecast.dynamic), 0.875);
}

TEST_F(PrefillForecastTest, WithoutAPromptItIsTheModelsLongest) {
  PlanConfig config = OnCards(2);
  config.prompt_tokens = 0;
  config.layer_split = "15,13";
  ASSERT_OK_AND_ASSIGN(const PrefillForecast forecast, PrefillForecast::Make(Model(), config));
  EXPECT_EQ(forecast.prompt_tokens, 1'010'000);
  EXPECT_EQ(forecast.layers, (std::vector<int>{15, 13}));
  EXPECT_EQ(forecast.plans_in_flight, 3);
}

TEST_F(PrefillForecastTest, OneCardThatNothingInterruptsIsEfficient) {
  PlanConfig config = OnCards(1);
  config.max_step_ms = 0;
  ASSERT_OK_AND_ASSIGN(const PrefillForecast forecast, PrefillForecast::Make(Model(), config));
  EXPECT_EQ(forecast.Efficiency(forecast.dynamic), 1);
}

TEST_F(PrefillForecastTest, NamesTheSettingThatIsWrong) {
  PlanConfig config = OnCards(2);
  config.gpu = "h100-80g:4";
  EXPECT_THAT(ErrorOf(config), HasSubstr("--gpu is h100-80g:4, must be one card for each of 2"));
  config = OnCards(2);
  config.gpu = "abacus:2";
  EXPECT_THAT(ErrorOf(config), HasSubstr("there is one for h100-80g"));
  config = OnCards(2);
  config.prompt_tokens = 1'010'001;
  EXPECT_THAT(ErrorOf(config),
              HasSubstr("--prompt-tokens is 1010001, the model's limit is 1010000"));
  config = OnCards(2);
  config.tensor_parallel_size = 2;
  EXPECT_THAT(ErrorOf(config), HasSubstr("--tensor-parallel-size is 2, --simulate is for stages"));
  config = OnCards(2);
  config.max_num_batched_tokens = 255;
  EXPECT_THAT(ErrorOf(config), HasSubstr("--max-num-batched-tokens is 255, must be at least 256"));
  EXPECT_THAT(ErrorOf(OnCards(29)), HasSubstr("cannot split 28 layers into 29 stages"));
  for (const char* split :
       {"14,x", "14,14,", "28", "14,15", "0,28", "-1,29", "2000000000,2000000000"}) {
    config = OnCards(2);
    config.layer_split = split;
    EXPECT_THAT(ErrorOf(config), HasSubstr("--layer-split has")) << split;
  }
  config = OnCards(1);
  config.max_step_ms = 5.5;
  EXPECT_THAT(ErrorOf(config), HasSubstr("with units of at most 5.5 ms (--max-step-ms)"));
  EXPECT_THAT(std::string(PrefillForecast::Make("/nowhere", OnCards(1)).status().message()),
              HasSubstr("/nowhere/config.json"));
}

TEST_F(PrefillForecastTest, PrintsItsFiguresForPeopleAndForPrograms) {
  PlanConfig config = OnCards(4);
  config.prompt_tokens = 100'000;
  ASSERT_OK_AND_ASSIGN(const PrefillForecast forecast, PrefillForecast::Make(Model(), config));
  const nlohmann::json json = nlohmann::json::parse(ForecastJson("a \"model\" \xff", forecast));
  EXPECT_EQ(json["ttft_s"], forecast.dynamic.run.ttft_seconds);
  EXPECT_EQ(json["efficiency_dynamic"], forecast.Efficiency(forecast.dynamic));
  EXPECT_EQ(json["efficiency_best_fixed"], forecast.Efficiency(forecast.best_fixed));
  EXPECT_EQ(json["chunks"].size(), forecast.dynamic.chunks.size());
  EXPECT_EQ(json["stages"].size(), 4U);
  EXPECT_EQ(json["stages"][3]["layers"], 7);
  const std::string text = ForecastText("a model", forecast);
  EXPECT_THAT(text,
              HasSubstr("a model: a prompt of 100,000 tokens, dense attention, on 4 x NVIDIA"));
  EXPECT_THAT(text, HasSubstr("\ndynamic chunks"));
  EXPECT_THAT(text, ::testing::Not(HasSubstr("Whole layers bound it")));
}

TEST_F(PrefillForecastTest, SparseAttentionIsCutAtItsPieces) {
  PlanConfig config = OnCards(2);
  config.attention = "sparse";
  EXPECT_THAT(ErrorOf(config),
              HasSubstr("cannot read " + Model() + "/sparse_attention_config.json"));
  std::string layers;
  for (int i = 0; i < 28; ++i) {
    layers += std::string(i == 0 ? "[" : ",") + R"({"0": ["vertical_and_slash", 3929, 7650, 0.9]})";
  }
  dir_.Write("sparse_attention_config.json", layers + "]");
  ASSERT_OK_AND_ASSIGN(const PrefillForecast forecast, PrefillForecast::Make(Model(), config));
  // On one card 17.4 s of products, 1.8 of elementwise passes, 2.6 of selection, 17.8 of attention.
  EXPECT_NEAR(forecast.one_stage.run.ttft_seconds, 39.6, 1);
  for (const planning::Chunk& chunk : forecast.dynamic.chunks) {
    if (chunk.end() <= 47'616 || chunk.end() == 1'000'000) continue;
    EXPECT_EQ(chunk.end() % 15'872, 0) << chunk.end();
  }
  config.max_num_batched_tokens = 8192;
  EXPECT_THAT(ErrorOf(config), HasSubstr("a piece of sparse attention has 15872"));
}

TEST_F(PrefillForecastTest, ShortRequestsBesideThePromptAreForecastWithAndWithoutAGuard) {
  PlanConfig config = OnCards(1);
  config.prompt_tokens = 500'000;
  config.short_requests_per_second = 1;
  ASSERT_OK_AND_ASSIGN(const PrefillForecast forecast, PrefillForecast::Make(Model(), config));
  const nlohmann::json json = nlohmann::json::parse(ForecastJson("m", forecast))["short_requests"];
  EXPECT_GT(json["guarded"]["answered"], 50);
  EXPECT_LE(json["guarded"]["ttft_p99_s"], 0.55);
  EXPECT_GT(json["unguarded"]["ttft_p99_s"], 5);
  EXPECT_GT(json["guarded"]["long_busy_growth"], 0);
  EXPECT_LT(json["guarded"]["long_busy_growth"], 0.15);
  EXPECT_THAT(ForecastText("m", forecast), HasSubstr("units of 200 ms, alone 500 ms"));

  config.max_step_ms = 0;
  config.step_target_ms = 6;
  EXPECT_THAT(ErrorOf(config), HasSubstr("with units of at most 6 ms (--step-target-ms)"));
  config = OnCards(2);
  config.short_requests_per_second = 1;
  EXPECT_THAT(ErrorOf(config), HasSubstr("--short-requests-per-second is for one card"));
}

TEST_F(PrefillForecastTest, TheCommandPrintsOrFails) {
  PlanConfig config = OnCards(2);
  config.prompt_tokens = 10'000;
  ::testing::internal::CaptureStdout();
  EXPECT_EQ(Plan(Model(), config, {.simulate = true, .json = true}), 0);
  EXPECT_EQ(nlohmann::json::parse(::testing::internal::GetCapturedStdout())["prompt_tokens"],
            10'000);
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(Plan("/nowhere", config, {.simulate = true}), 2);
  EXPECT_THAT(::testing::internal::GetCapturedStderr(), HasSubstr("/nowhere/config.json"));
}

TEST(PrefillForecast, ThePublished14BReachesItsEfficiencyOnEightCards) {
  const std::string model = testing::SharedPath("models/qwen2.5-14b-instruct-1m");
  if (model.empty()) {
    GTEST_SKIP() << "skipped: LONGHAUL_SHARED has no models/qwen2.5-14b-instruct-1m";
  }
  ASSERT_OK_AND_ASSIGN(const PrefillForecast forecast, PrefillForecast::Make(model, OnCards(8)));
  EXPECT_GE(forecast.Efficiency(forecast.dynamic), 0.94);
  EXPECT_LE(forecast.Loss(forecast.dynamic), 0.75 * forecast.Loss(forecast.best_fixed));
}

}  // namespace
}  // namespace longhaul::cli
