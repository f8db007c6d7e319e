#include "worker/rank/sampler.h"

#include <cmath>
#include <limits>

#include "tests/testing/status_matchers.h"
#include "worker/backend/cpu_backend.h"

namespace longhaul::worker::rank {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int32_t kVocabulary = 70;  // more than one word of the bitmap

class SamplerTest : public ::testing::Test {
 protected:
  void Start(SequenceId id, SamplingParams sampling, SequenceStart start = {}) {
    start.sequence_id = id;
    start.sampling = std::move(sampling);
    start.prompt_tokens = 10;
    sampler_.Start(start);
  }

  // Logits that are 0 but for these.
  TensorView Logits(std::initializer_list<std::pair<TokenId, float>> values) {
    logits_.assign(kVocabulary, 0);
    for (const auto& [id, value] : values) logits_[id] = value;
    return {logits_.data(), DType::kFloat32, 1, kVocabulary};
  }

  // The token that is sampled from these logits; -1 for an error.
  TokenId Sample(SequenceId id, std::initializer_list<std::pair<TokenId, float>> values) {
    StepResult result;
    const std::vector<Sampler::Row> rows = {{.sequence = id, .position = 9}};
    EXPECT_OK(sampler_.Sample(rows, Logits(values), result));
    if (result.sampled.size() != 1) return -1;
    EXPECT_EQ(result.sampled[0].sequence_id, id);
    return result.sampled[0].token.token;
  }

  const std::unique_ptr<backend::Backend> backend_ = backend::MakeCpuBackend(1);
  Sampler sampler_{kVocabulary, *backend_};
  std::vector<float> logits_;
};

TEST_F(SamplerTest, RepetitionPenaltyCountsPromptSlicesCachedAndReplayedTokens) {
  const SamplingParams sampling{.temperature = 0, .repetition_penalty = 2};
  Start(1, sampling, {.cached_prompt_ids = {65}, .replayed_output_ids = {3}});
  EXPECT_EQ(Sample(1, {{65, 3}, {3, 3.5}, {4, 2}}), 4);  // 1.5, 1.75, 2
  sampler_.See(1, std::vector<TokenId>{6, 69});
  EXPECT_EQ(Sample(1, {{6, 3}, {69, 3}, {7, 2}}), 7);
  // Its own output counts from the next token on: 4 and 7 are penalised now.
  EXPECT_EQ(Sample(1, {{4, 3}, {7, 3}, {8, 2}}), 8);
}

TEST_F(SamplerTest, PresenceAndFrequencyCountOutputOnly) {
  const SamplingParams sampling{.temperature = 0, .frequency_penalty = 1};
  Start(1, sampling, {.cached_prompt_ids = {5}, .replayed_output_ids = {9, 9}});
  sampler_.See(1, std::vector<TokenId>{5});
  EXPECT_EQ(Sample(1, {{5, 3}, {9, 4}}), 5);    // 3 against 4 - 2
  EXPECT_EQ(Sample(1, {{5, 3}, {2, 2.5}}), 2);  // 3 - 1
  Start(2, {.temperature = 0, .presence_penalty = 1}, {.replayed_output_ids = {9, 9}});
  EXPECT_EQ(Sample(2, {{9, 3.5}, {2, 2.75}}), 2);  // 3.5 - 1
}

TEST_F(SamplerTest, EndTokensAreBannedUntilMinTokens) {
  Start(1, {.temperature = 0}, {.end_token_ids = {2}, .min_tokens = 2});
  EXPECT_EQ(Sample(1, {{2, 5}, {7, 1}}), 7);
  EXPECT_EQ(Sample(1, {{2, 5}, {7, 1}}), 7);
  EXPECT_EQ(Sample(1, {{2, 5}, {7, 1}}), 2);
  // Replayed output counts.
  Start(2, {.temperature = 0}, {.replayed_output_ids = {7}, .end_token_ids = {2}, .min_tokens = 2});
  EXPECT_EQ(Sample(2, {{2, 5}, {7, 1}}), 7);
  EXPECT_EQ(Sample(2, {{2, 5}, {7, 1}}), 2);
}

TEST_F(SamplerTest, AReplayedSequenceDrawsTheSameTokens) {
  const SamplingParams sampling{.temperature = 1, .seed = 42};
  Start(1, sampling);
  std::vector<TokenId> tokens;
  for (int i = 0; i < 10; ++i) tokens.push_back(Sample(1, {}));
  for (size_t replayed = 1; replayed < 10; ++replayed) {
    Start(2, sampling, {.replayed_output_ids = {tokens.begin(), tokens.begin() + replayed}});
    EXPECT_EQ(Sample(2, {}), tokens[replayed]) << replayed;
    sampler_.End(2);
  }
}

TEST_F(SamplerTest, ANanIsTheSequencesErrorOnly) {
  Start(1, {.temperature = 0});
  Start(2, {.temperature = 0});
  std::vector<float> logits(2 * kVocabulary);
  logits[5] = std::nanf("");
  logits[kVocabulary + 6] = 1;
  StepResult result;
  const std::vector<Sampler::Row> rows = {{.sequence = 1}, {.sequence = 2}};
  ASSERT_OK(sampler_.Sample(rows, {logits.data(), DType::kFloat32, 2, kVocabulary}, result));
  ASSERT_EQ(result.errors.size(), 1u);
  EXPECT_EQ(result.errors[0].sequence_id, 1u);
  EXPECT_THAT(result.errors[0].message, HasSubstr("NaN"));
  ASSERT_EQ(result.sampled.size(), 1u);
  EXPECT_EQ(result.sampled[0].token.token, 6);
}

TEST_F(SamplerTest, TheObserverSeesRawLogits) {
  Start(1, {.temperature = 0, .logit_bias = {{3, 100.0f}}});
  std::vector<float> seen;
  sampler_.set_logits_observer([&](SequenceId id, int64_t position, std::span<const float> row) {
    EXPECT_EQ(id, 1u);
    EXPECT_EQ(position, 9);
    seen.assign(row.begin(), row.end());
  });
  EXPECT_EQ(Sample(1, {{4, 2}}), 3);
  EXPECT_EQ(seen, logits_);
}

}  // namespace
}  // namespace longhaul::worker::rank
