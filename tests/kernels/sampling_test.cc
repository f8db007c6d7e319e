#include "kernels/sampling/sampling.h"

#include <algorithm>
#include <limits>
#include <map>
#include <vector>

#include "tests/testing/kernel_testing.h"

namespace longhaul::kernels {
namespace {

using longhaul::testing::FreshRandom;
using longhaul::testing::Near;
using longhaul::testing::Normal;
using longhaul::testing::Uniform;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// A row of logits and what a request asks for; Run checks the kernel against its reference.
struct Row {
  explicit Row(std::vector<float> values) : logits(std::move(values)) {
    params.vocab_size = static_cast<int32_t>(logits.size());
    seen.resize((logits.size() + 63) / 64);
    counts.resize(logits.size());
  }

  void MarkSeen(int32_t id, int32_t count) {
    seen[id / 64] |= uint64_t{1} << (id % 64);
    counts[id] += count;
  }

  KernelStatus Launch(SamplingResult* result) {
    params.logits = logits.data();
    params.seen = seen.data();
    params.counts = counts.data();
    std::vector<double> workspace(SamplingWorkspaceBytes(params.vocab_size) / sizeof(double) + 1,
                                  std::nan(""));
    params.workspace = workspace.data();
    return SamplingCpu(params, result);
  }

  SamplingResult Run() {
    SamplingResult result;
    EXPECT_EQ(Launch(&result), KernelStatus::kOk);
    return result;
  }

  // How often each token comes in `draws` draws.
  std::map<int32_t, int> Histogram(int draws) {
    std::map<int32_t, int> histogram;
    for (int i = 0; i < draws; ++i) {
      params.token_index = i;
      ++histogram[Run().token];
    }
    return histogram;
  }

  std::vector<float> logits;
  SamplingParams params;
  std::vector<uint64_t> seen;
  std::vector<int32_t> counts;
};

TEST(SamplingUniform, IsPhilox4x32WithTenRounds) {
  // Known answer of the authors' Random123 for counter 0, key 0: 6627e8d5 e169c58d ...
  EXPECT_EQ(SamplingUniform(0, 0), static_cast<double>(0x6627e8d5e169c58d >> 11) * 0x1p-53);
  EXPECT_NE(SamplingUniform(0, 1), SamplingUniform(1, 0));
  EXPECT_NE(SamplingUniform(uint64_t{1} << 40, 0), SamplingUniform(0, 0));
  EXPECT_NE(SamplingUniform(0, uint64_t{1} << 40), SamplingUniform(0, 0));
}

TEST(Sampling, GreedyTakesTheLowestIdOfEquals) {
  Row row({1, 3, 2, 3, 3});
  row.params.temperature = 0;
  EXPECT_EQ(row.Run().token, 1);
}

TEST(Sampling, RepetitionPenaltyDividesPositiveAndMultipliesNegativeScores) {
  Row row({4, 3, -1, -1.5f});
  row.params.temperature = 0;
  row.params.repetition_penalty = 2;
  row.MarkSeen(0, 0);  // 4 -> 2, so 1 wins; presence in the prompt is enough
  EXPECT_EQ(row.Run().token, 1);
  Row negative({-2, -1});
  negative.params.temperature = 0;
  negative.params.repetition_penalty = 3;
  negative.MarkSeen(1, 1);  // -1 -> -3
  EXPECT_EQ(negative.Run().token, 0);
}

TEST(Sampling, PresenceCountsOnceAndFrequencyEachTime) {
  Row row({5, 4.5f, 1});
  row.params.temperature = 0;
  row.MarkSeen(0, 3);
  row.params.presence_penalty = 0.4f;
  EXPECT_EQ(row.Run().token, 0);
  row.params.presence_penalty = 0.6f;
  EXPECT_EQ(row.Run().token, 1);
  row.params.presence_penalty = 0;
  row.params.frequency_penalty = 0.2f;  // 3 * 0.2 > 0.5
  EXPECT_EQ(row.Run().token, 1);
}

TEST(Sampling, PenaltiesComeBeforeBiasAndBansComeLast) {
  Row row({2, 2.5f, 0});
  row.params.temperature = 0;
  row.params.repetition_penalty = 2;
  row.MarkSeen(0, 1);
  const int32_t bias_ids[] = {0, 0};
  const float bias_values[] = {1, 1};  // 2 / 2 + 2 = 3 > 2.5; bias first would give (2 + 2) / 2 = 2
  row.params.bias_ids = bias_ids;
  row.params.bias_values = bias_values;
  row.params.num_bias = 2;
  EXPECT_EQ(row.Run().token, 0);
  const int32_t banned[] = {0};
  row.params.banned_ids = banned;
  row.params.num_banned = 1;
  EXPECT_EQ(row.Run().token, 1);
}

TEST(Sampling, TopKKeepsExactlyKWithTheLowestIdsOfEquals) {
  Row row({1, 2, 2, 2, 0});
  row.params.top_k = 2;
  const auto histogram = row.Histogram(300);
  EXPECT_EQ(histogram.size(), 2u);
  EXPECT_TRUE(histogram.contains(1) && histogram.contains(2));
}

TEST(Sampling, TopPKeepsTheSmallestSetThatReachesIt) {
  // Probabilities 0.5, 0.25, 0.125, 0.125.
  Row row({std::log(4.0f), std::log(2.0f), 0, 0});
  row.params.top_p = 0.6f;
  EXPECT_EQ(row.Histogram(300).size(), 2u);
  row.params.top_p = 0.45f;
  EXPECT_EQ(row.Histogram(300).size(), 1u);
  row.params.top_p = 0.99f;
  EXPECT_EQ(row.Histogram(300).size(), 4u);
}

TEST(Sampling, MinPDropsWhatIsImprobableBesideTheBest) {
  Row row({std::log(4.0f), std::log(2.0f), 0, 0});
  row.params.min_p = 0.3f;
  EXPECT_EQ(row.Histogram(300).size(), 2u);
}

TEST(Sampling, DrawsWithTheProbabilitiesOfTheTemperature) {
  std::mt19937_64 random = FreshRandom();
  Row row({0, 1, 2, 3});
  row.params.seed = random();
  row.params.temperature = 2;
  constexpr int kDraws = 20000;
  const auto histogram = row.Histogram(kDraws);
  double total = 0;
  for (int id = 0; id < 4; ++id) total += std::exp(id / 2.0);
  for (int id = 0; id < 4; ++id) {
    const double p = std::exp(id / 2.0) / total;
    const double deviation = std::sqrt(kDraws * p * (1 - p));
    EXPECT_NEAR(histogram.at(id), kDraws * p, 5.5 * deviation) << id;  // fails once in 10^7
  }
}

TEST(Sampling, SameSeedAndIndexDrawTheSameTokenAndOthersDiffer) {
  std::mt19937_64 random = FreshRandom();
  Row row(std::vector<float>(1000, 0.0f));
  row.params.seed = random();
  const auto draw = [&](uint64_t index) {
    row.params.token_index = index;
    return row.Run().token;
  };
  int equal = 0;
  for (uint64_t i = 0; i < 100; ++i) {
    EXPECT_EQ(draw(i), draw(i));
    equal += draw(i) == draw(i + 1);
  }
  EXPECT_LT(equal, 10);
}

TEST(Sampling, LogprobsAreOfTheRawLogits) {
  Row row({2, 1, 0, 1});
  row.params.temperature = 0;
  row.params.num_top_logprobs = 3;
  const int32_t banned[] = {0};
  row.params.banned_ids = banned;
  row.params.num_banned = 1;
  const SamplingResult result = row.Run();
  const double log_sum = std::log(std::exp(2.0) + 2 * std::exp(1.0) + 1);
  EXPECT_EQ(result.token, 1);
  EXPECT_NEAR(result.logprob, 1 - log_sum, 1e-6);
  ASSERT_EQ(result.num_top, 3);
  EXPECT_EQ(std::vector<int32_t>(result.top_ids, result.top_ids + 3),
            (std::vector<int32_t>{0, 1, 3}));
  EXPECT_NEAR(result.top_logprobs[0], 2 - log_sum, 1e-6);
}

TEST(Sampling, ReportsLogitsThatAreNotFiniteAndLeavesTheResultAlone) {
  for (const std::vector<float>& logits :
       {std::vector<float>{0, std::nanf(""), 1}, {0, kInfinity}, {-kInfinity, -kInfinity}}) {
    Row row(logits);
    SamplingResult result;
    EXPECT_EQ(row.Launch(&result), KernelStatus::kNotFinite);
    EXPECT_EQ(result.token, -1);
  }
  Row masked({-kInfinity, 1, -kInfinity});
  EXPECT_EQ(masked.Run().token, 1);
}

TEST(Sampling, ReportsThatBansLeaveNothing) {
  Row row({1, 2});
  const int32_t banned[] = {0, 1};
  row.params.banned_ids = banned;
  row.params.num_banned = 2;
  SamplingResult result;
  EXPECT_EQ(row.Launch(&result), KernelStatus::kNoCandidate);
}

TEST(Sampling, RefusesParametersOutsideTheirRange) {
  const int32_t bad_id[] = {2};
  const struct {
    const char* name;
    void (*spoil)(SamplingParams&, const int32_t*);
  } cases[] = {
      {"negative temperature", [](SamplingParams& p, const int32_t*) { p.temperature = -1; }},
      {"NaN temperature", [](SamplingParams& p, const int32_t*) { p.temperature = std::nanf(""); }},
      {"top_p of 0", [](SamplingParams& p, const int32_t*) { p.top_p = 0; }},
      {"min_p above 1", [](SamplingParams& p, const int32_t*) { p.min_p = 1.5f; }},
      {"negative top_k", [](SamplingParams& p, const int32_t*) { p.top_k = -1; }},
      {"no repetition penalty",
       [](SamplingParams& p, const int32_t*) { p.repetition_penalty = 0; }},
      {"too many logprobs", [](SamplingParams& p, const int32_t*) { p.num_top_logprobs = 21; }},
      {"banned id outside",
       [](SamplingParams& p, const int32_t* id) {
         p.banned_ids = id;
         p.num_banned = 1;
       }},
  };
  for (const auto& c : cases) {
    Row row({1, 2});
    c.spoil(row.params, bad_id);
    SamplingResult result;
    EXPECT_EQ(row.Launch(&result), KernelStatus::kInvalidArgument) << c.name;
  }
}

TEST(Sampling, TinyTemperaturesAreGreedyAndHugeOnesUniform) {
  Row row({30, 31, -20});
  row.params.temperature = 1e-37f;
  EXPECT_EQ(row.Run().token, 1);
  row.params.temperature = 1e30f;
  EXPECT_EQ(row.Histogram(300).size(), 3u);
}

// The kernel against the reference over random requests of every mixture.
TEST(Sampling, EqualsReferenceOverRandomRequests) {
  std::mt19937_64 random = FreshRandom();
  const auto one_of = [&](std::initializer_list<float> choices) {
    return choices.begin()[Uniform(random, 0, static_cast<int64_t>(choices.size()) - 1)];
  };
  for (int i = 0; i < 600; ++i) {
    const int64_t vocab = std::vector<int64_t>{1, 2, 63, 64, 65, 300, 2048}[Uniform(random, 0, 6)];
    Row row(Normal(random, vocab, one_of({0.1f, 2, 10})));
    for (int64_t t = 0; t < vocab / 4; ++t) {
      row.MarkSeen(static_cast<int32_t>(Uniform(random, 0, vocab - 1)),
                   static_cast<int32_t>(Uniform(random, 0, 2)));
      row.logits[Uniform(random, 0, vocab - 1)] = one_of({1, -kInfinity});  // ties, masks
    }
    row.logits[Uniform(random, 0, vocab - 1)] = 1;
    SamplingParams& p = row.params;
    p.temperature = one_of({0, 0.3f, 0.7f, 1, 3});
    p.top_k = static_cast<int32_t>(one_of({0, 0, 1, 5, 20, 5000}));
    p.top_p = one_of({1, 1, 0.05f, 0.8f, 0.97f});
    p.min_p = one_of({0, 0, 0.05f, 0.5f, 1});
    p.repetition_penalty = one_of({1, 1.05f, 2, 0.5f});
    p.presence_penalty = one_of({0, 0.5f, -1});
    p.frequency_penalty = one_of({0, 0.25f, -0.5f});
    p.seed = random();
    p.token_index = random();
    p.num_top_logprobs = static_cast<int32_t>(Uniform(random, 0, 20));
    std::vector<int32_t> bias_ids(Uniform(random, 0, 3));
    for (int32_t& id : bias_ids) id = static_cast<int32_t>(Uniform(random, 0, vocab - 1));
    const std::vector<float> bias_values = Normal(random, 3, 5);
    p.bias_ids = bias_ids.data();
    p.bias_values = bias_values.data();
    p.num_bias = static_cast<int32_t>(bias_ids.size());

    SamplingResult got, want;
    const KernelStatus status = row.Launch(&got);
    ASSERT_EQ(status, SamplingRef(p, &want)) << "case " << i;
    if (status != KernelStatus::kOk) continue;
    ASSERT_EQ(got.token, want.token) << "case " << i;
    ASSERT_EQ(got.num_top, want.num_top);
    std::vector<float> got_logprobs(got.top_logprobs, got.top_logprobs + got.num_top);
    std::vector<float> want_logprobs(want.top_logprobs, want.top_logprobs + want.num_top);
    for (int32_t t = 0; t < got.num_top; ++t) {
      ASSERT_EQ(got.top_ids[t], want.top_ids[t]) << "case " << i;
      if (want_logprobs[t] == -kInfinity) {
        ASSERT_EQ(got_logprobs[t], -kInfinity);
        got_logprobs[t] = want_logprobs[t] = 0;
      }
    }
    got_logprobs.push_back(got.logprob);
    want_logprobs.push_back(want.logprob);
    ASSERT_TRUE(Near(got_logprobs, want_logprobs, longhaul::testing::kLogprobTolerance)) << i;
  }
}

}  // namespace
}  // namespace longhaul::kernels
