#include "worker/rank/prompt_scorer.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <numeric>
#include <utility>

#include "tests/testing/golden.h"
#include "tests/testing/model_runner.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace longhaul::worker::rank {
namespace {

using ::longhaul::testing::ModelRunner;
using ::longhaul::testing::SplitMixTokens;
using ::longhaul::testing::TempDir;
using ::longhaul::testing::TinyModel;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr int64_t kRowBytes = 300 * sizeof(float);
constexpr TokenId kPoison = 299;  // its embedding is NaN

// Makes every activation behind the token NaN.
void Poison(const std::string& file) {
  std::ifstream in(file, std::ios::binary);
  std::string bytes((std::istreambuf_iterator<char>(in)), {});
  in.close();
  uint64_t header = 0;
  std::memcpy(&header, bytes.data(), sizeof(header));
  const size_t name = bytes.find("model.embed_tokens.weight");
  CHECK(name != std::string::npos);
  size_t begin = 0;
  CHECK(std::sscanf(bytes.c_str() + bytes.find("data_offsets", name), "data_offsets\":[%zu",
                    &begin) == 1);
  const float nan = std::nanf("");
  std::memcpy(bytes.data() + sizeof(header) + header + begin + size_t{kPoison} * 96 * sizeof(float),
              &nan, sizeof(nan));
  std::ofstream(file, std::ios::binary) << bytes;
}

// The small model of 300 tokens, whose executor runs hand-made plans. Prompts differ by sequence.
class PromptScorerTest : public ::testing::Test {
 protected:
  PromptScorerTest() {
    TinyModel{}.Write(folder_.path());
    Poison(folder_.path() + "/model.safetensors");
    Use(PromptScorer::kMaxLogitsBytes, 1);
  }

  void Use(int64_t max_logits_bytes, int threads) {
    auto runner = ModelRunner::Create({.model_dir = folder_.path(),
                                       .threads = threads,
                                       .max_tokens = int64_t{12} * kKvBlockTokens,
                                       .max_logits_bytes = max_logits_bytes});
    CHECK(runner.ok()) << runner.status();
    runner_ = *std::move(runner);
    last_step_ = 0;
  }
  std::vector<GeneratedToken> Score(const std::vector<TokenId>& prompt, int32_t num_top,
                                    const ModelRunner::Cuts& cuts = {}) {
    auto tokens = runner_->PromptLogprobs(prompt, num_top, cuts);
    CHECK(tokens.ok()) << tokens.status();
    return *std::move(tokens);
  }

  // A sequence whose whole prompt is in one slice; its blocks begin at `block`.
  static SequenceStart Starting(SequenceId id, const std::vector<TokenId>& prompt,
                                std::optional<int32_t> prompt_logprobs) {
    return {.sequence_id = id,
            .sampling = {.temperature = 0, .prompt_logprobs = prompt_logprobs},
            .prompt_tokens = static_cast<int32_t>(prompt.size())};
  }
  static Slice Whole(SequenceId id, const std::vector<TokenId>& prompt, BlockId block,
                     bool sample) {
    std::vector<BlockId> blocks((prompt.size() + 255) / 256);
    std::iota(blocks.begin(), blocks.end(), block);
    return {.sequence_id = id, .token_ids = prompt, .new_block_ids = blocks, .sample = sample};
  }
  StepResult Execute(StepPlan plan) {
    plan.step_id = ++last_step_;
    auto result = runner_->executor().Execute(plan, stop_);
    CHECK(result.ok()) << result.status();
    return *std::move(result);
  }

  const TempDir folder_;
  std::unique_ptr<ModelRunner> runner_;
  const std::atomic<bool> stop_ = false;
  StepId last_step_ = 0;
};

::testing::AssertionResult SameBits(const std::vector<GeneratedToken>& a,
                                    const std::vector<GeneratedToken>& b) {
  if (a.size() != b.size()) return ::testing::AssertionFailure() << a.size() << ", " << b.size();
  const auto same_top = [](const TokenLogprob& x, const TokenLogprob& y) {
    return x.token == y.token && x.logprob == y.logprob;
  };
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i].token == b[i].token && a[i].logprob == b[i].logprob &&
        std::ranges::equal(a[i].top_logprobs, b[i].top_logprobs, same_top)) {
      continue;
    }
    return ::testing::AssertionFailure()
           << "position " << i + 1 << ": " << *a[i].logprob << ", " << *b[i].logprob;
  }
  return ::testing::AssertionSuccess();
}

// Against the logits of the same prompt run token by token, and a log-softmax of the test's own.
TEST_F(PromptScorerTest, TellsTheLogSoftmaxOfEachTokenGivenThoseBeforeIt) {
  const std::vector<TokenId> prompt = SplitMixTokens(5, 600, 290);  // into the second segment
  ASSERT_OK_AND_ASSIGN(const auto logits, runner_->LogitsBehindEach(prompt));
  const std::vector<GeneratedToken> scored = Score(prompt, 20);
  ASSERT_THAT(scored, SizeIs(599));
  for (size_t i = 0; i < scored.size(); ++i) {
    const std::vector<float>& row = logits[i];
    double sum = 0;
    for (const float logit : row) sum += std::exp(double{logit});
    const auto expected = [&](TokenId id) { return row[static_cast<size_t>(id)] - std::log(sum); };
    EXPECT_EQ(scored[i].token, prompt[i + 1]);
    ASSERT_TRUE(scored[i].logprob.has_value());
    ASSERT_NEAR(*scored[i].logprob, expected(prompt[i + 1]), 2e-6) << "position " << i + 1;
    std::vector<TokenId> order(row.size());
    std::iota(order.begin(), order.end(), 0);
    std::ranges::stable_sort(order, std::greater<>(), [&](TokenId id) { return row[id]; });
    ASSERT_THAT(scored[i].top_logprobs, SizeIs(20));
    for (size_t t = 0; t < 20; ++t) {
      ASSERT_EQ(scored[i].top_logprobs[t].token, order[t]) << "position " << i + 1;
      ASSERT_NEAR(scored[i].top_logprobs[t].logprob, expected(order[t]), 2e-6);
    }
  }
}

TEST_F(PromptScorerTest, NeitherChunksNorCutsNorTilesNorThreadsChangeABit) {
  const std::vector<TokenId> prompt = SplitMixTokens(6, 600, 290);
  const std::vector<GeneratedToken> whole = Score(prompt, 3);
  const std::vector<ModelRunner::Cuts> all_cuts = {{.chunks = {256}},
                                                   {.chunks = {1, 1, 254, 300}},
                                                   {.chunks = {}, .layers = {1, 2}},
                                                   {.chunks = {200}, .layers = {2}}};
  for (const int64_t rows : {1, 7, 49, 256, 599}) {
    Use(rows * kRowBytes + 3, 2);
    EXPECT_TRUE(SameBits(Score(prompt, 3), whole)) << rows << " rows a tile";
    for (const ModelRunner::Cuts& cuts : all_cuts) {
      EXPECT_TRUE(SameBits(Score(prompt, 3, cuts), whole)) << rows << " rows a tile";
    }
  }
  Use(1, 1);  // less than a row
  EXPECT_TRUE(SameBits(Score(prompt, 3), whole));
}

TEST_F(PromptScorerTest, ChunksOfWholeBlocksMissNoPosition) {
  const std::vector<TokenId> prompt = SplitMixTokens(7, 512, 290);
  EXPECT_TRUE(SameBits(Score(prompt, 0, {.chunks = {256}}), Score(prompt, 0)));
  EXPECT_THAT(Score(prompt, 0), SizeIs(511));
  EXPECT_THAT(Score(prompt, 0)[0].top_logprobs, IsEmpty());
}

TEST_F(PromptScorerTest, APromptOfOneTokenHasNone) {
  const StepResult result =
      Execute({.starts = {Starting(1, {17}, 5)},
               .units = {{.layer_end = 3, .slices = {Whole(1, {17}, 0, true)}}}});
  EXPECT_THAT(result.prompt_logprobs, IsEmpty());
  EXPECT_THAT(result.sampled, SizeIs(1));
}

TEST_F(PromptScorerTest, OutputIsNotScored) {
  const std::vector<TokenId> prompt = {1, 2, 3};
  EXPECT_THAT(Execute({.starts = {Starting(1, prompt, 0)},
                       .units = {{.layer_end = 3, .slices = {Whole(1, prompt, 0, true)}}}})
                  .prompt_logprobs,
              SizeIs(1));
  Slice decode{.sequence_id = 1, .begin = 3, .token_ids = {9}, .sample = true};
  EXPECT_THAT(Execute({.units = {{.layer_end = 3, .slices = {decode}}}}).prompt_logprobs,
              IsEmpty());
}

TEST_F(PromptScorerTest, MatesOfAUnitDoNotTouchEachOther) {
  const std::vector<std::vector<TokenId>> prompts = {
      SplitMixTokens(1, 300, 290), SplitMixTokens(2, 40, 290), SplitMixTokens(3, 90, 290)};
  const auto alone0 = Score(prompts[0], 4);
  const auto alone2 = Score(prompts[2], 0);
  ASSERT_OK_AND_ASSIGN(const auto sampled1, runner_->Generate(prompts[1], 1));
  Use(64 * kRowBytes, 2);  // a tile has rows of both
  const StepResult result =
      Execute({.starts = {Starting(1, prompts[0], 4), Starting(2, prompts[1], std::nullopt),
                          Starting(3, prompts[2], 0)},
               .units = {{.layer_end = 3,
                          .slices = {Whole(1, prompts[0], 0, false), Whole(2, prompts[1], 2, true),
                                     Whole(3, prompts[2], 3, false)}}}});
  ASSERT_THAT(result.prompt_logprobs, SizeIs(2)) << "sequence 2 asked for none";
  EXPECT_EQ(result.prompt_logprobs[0].sequence_id, 1u);
  EXPECT_EQ(result.prompt_logprobs[0].begin, 1);
  EXPECT_TRUE(SameBits(result.prompt_logprobs[0].tokens, alone0));
  EXPECT_EQ(result.prompt_logprobs[1].sequence_id, 3u);
  EXPECT_TRUE(SameBits(result.prompt_logprobs[1].tokens, alone2));
  ASSERT_THAT(result.sampled, SizeIs(1));
  EXPECT_EQ(result.sampled[0].token.token, sampled1.tokens[0]);
}

TEST_F(PromptScorerTest, TwoUnitsOfASequenceInOneStepGiveOneList) {
  const std::vector<TokenId> prompt = SplitMixTokens(8, 100, 290);
  const auto whole = Score(prompt, 1);
  Use(PromptScorer::kMaxLogitsBytes, 1);
  Slice first = Whole(1, {prompt.begin(), prompt.begin() + 30}, 0, false);
  first.next_prompt_token = prompt[30];
  Slice second{.sequence_id = 1, .begin = 30, .token_ids = {prompt.begin() + 30, prompt.end()}};
  const StepResult result = Execute(
      {.starts = {Starting(1, prompt, 1)},
       .units = {{.layer_end = 3, .slices = {first}}, {.layer_end = 3, .slices = {second}}}});
  ASSERT_THAT(result.prompt_logprobs, SizeIs(1));
  EXPECT_TRUE(SameBits(result.prompt_logprobs[0].tokens, whole));
}

TEST_F(PromptScorerTest, ANanIsTheSequencesErrorOnly) {
  std::vector<TokenId> bad = SplitMixTokens(1, 50, 290);
  bad[20] = kPoison;
  const std::vector<TokenId> good = SplitMixTokens(2, 60, 290);
  const auto alone = Score(good, 2);
  Use(16 * kRowBytes, 2);
  const StepResult result = Execute(
      {.starts = {Starting(1, bad, 2), Starting(2, good, 2)},
       .units = {{.layer_end = 3, .slices = {Whole(1, bad, 0, true), Whole(2, good, 1, false)}}}});
  ASSERT_THAT(result.errors, SizeIs(1)) << "sampling and scoring fail as one";
  EXPECT_EQ(result.errors[0].sequence_id, 1u);
  EXPECT_THAT(result.errors[0].message, HasSubstr("NaN"));
  ASSERT_THAT(result.prompt_logprobs, SizeIs(1));
  EXPECT_EQ(result.prompt_logprobs[0].sequence_id, 2u);
  EXPECT_TRUE(SameBits(result.prompt_logprobs[0].tokens, alone));
}

}  // namespace
}  // namespace longhaul::worker::rank
