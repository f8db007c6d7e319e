#include "kernels/logprobs/logprobs.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "tests/testing/kernel_testing.h"

namespace longhaul::kernels {
namespace {

using longhaul::testing::FreshRandom;
using longhaul::testing::Near;
using longhaul::testing::Normal;
using longhaul::testing::Uniform;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

LogprobsParams Params(const std::vector<float>& logits, int32_t token, int32_t num_top) {
  return {.logits = logits.data(),
          .vocab_size = static_cast<int32_t>(logits.size()),
          .token = token,
          .num_top = num_top};
}

Logprobs LogprobsOf(const std::vector<float>& logits, int32_t token, int32_t num_top) {
  Logprobs result;
  EXPECT_EQ(LogprobsCpu(Params(logits, token, num_top), &result), KernelStatus::kOk);
  return result;
}

std::vector<int32_t> TopIds(const Logprobs& result) {
  return {result.top_ids, result.top_ids + result.num_top};
}

TEST(Logprobs, AreTheLogSoftmax) {
  const Logprobs result = LogprobsOf({2, 1, 0, 1}, 2, 3);
  const double log_sum = std::log(std::exp(2.0) + 2 * std::exp(1.0) + 1);
  EXPECT_NEAR(result.logprob, -log_sum, 1e-6);
  EXPECT_EQ(TopIds(result), (std::vector<int32_t>{0, 1, 3}));
  EXPECT_NEAR(result.top_logprobs[0], 2 - log_sum, 1e-6);
  EXPECT_NEAR(result.top_logprobs[2], 1 - log_sum, 1e-6);
}

TEST(Logprobs, AVocabularySmallerThanTheListIsListedWhole) {
  EXPECT_EQ(TopIds(LogprobsOf({-1, 5, -kInfinity}, 0, 20)), (std::vector<int32_t>{1, 0, 2}));
  const Logprobs one = LogprobsOf({7}, 0, 20);
  EXPECT_EQ(one.num_top, 1);
  EXPECT_EQ(one.logprob, 0);
}

TEST(Logprobs, OfEqualsTheLowestIdsAreListed) {
  EXPECT_EQ(TopIds(LogprobsOf(std::vector<float>(100, 3), 50, 4)),
            (std::vector<int32_t>{0, 1, 2, 3}));
  EXPECT_EQ(TopIds(LogprobsOf({1, 2, 1, 2, 1, 2, 0}, 0, 4)), (std::vector<int32_t>{1, 3, 5, 0}));
}

TEST(Logprobs, LogitsFarApartNeitherOverflowNorVanish) {
  const float largest = std::numeric_limits<float>::max();
  EXPECT_EQ(LogprobsOf({largest, 0}, 0, 0).logprob, 0);
  EXPECT_EQ(LogprobsOf({largest, 0}, 1, 0).logprob, -largest);
  EXPECT_EQ(LogprobsOf({-largest, -largest}, 1, 0).logprob, -std::log(2.0f));
  EXPECT_NEAR(LogprobsOf({1000, 999}, 1, 0).logprob, -1 - std::log1p(std::exp(-1.0)), 1e-6);
  EXPECT_EQ(LogprobsOf({-kInfinity, 1}, 0, 1).logprob, -kInfinity);
}

TEST(Logprobs, ReportLogitsThatAreNotFiniteAndLeaveTheResultAlone) {
  for (const std::vector<float>& logits :
       {std::vector<float>{0, std::nanf(""), 1}, {0, kInfinity}, {-kInfinity, -kInfinity}}) {
    Logprobs result;
    result.logprob = -7;
    EXPECT_EQ(LogprobsCpu(Params(logits, 0, 1), &result), KernelStatus::kNotFinite);
    EXPECT_EQ(result.logprob, -7);
  }
}

TEST(Logprobs, RefuseParametersOutsideTheirRange) {
  const std::vector<float> logits = {1, 2};
  Logprobs result;
  for (const LogprobsParams& params :
       {Params(logits, 2, 0), Params(logits, -1, 0), Params(logits, 0, 21), Params(logits, 0, -1),
        Params({}, 0, 0), LogprobsParams{.vocab_size = 2}}) {
    EXPECT_EQ(LogprobsCpu(params, &result), KernelStatus::kInvalidArgument);
  }
}

TEST(Logprobs, EqualReferenceOverRandomRows) {
  std::mt19937_64 random = FreshRandom();
  for (int i = 0; i < 400; ++i) {
    const int64_t vocab = std::vector<int64_t>{1, 2, 19, 20, 21, 300, 2048}[Uniform(random, 0, 6)];
    std::vector<float> logits =
        Normal(random, vocab, std::vector<float>{0.01f, 2, 30, 1e4f}[Uniform(random, 0, 3)]);
    if (Uniform(random, 0, 1) == 1) {  // many ties
      for (float& logit : logits) logit = std::round(logit);
    }
    if (Uniform(random, 0, 3) == 0) std::sort(logits.begin(), logits.end());  // all displaced
    for (int64_t t = 0; t < vocab / 8; ++t) logits[Uniform(random, 0, vocab - 1)] = -kInfinity;
    logits[Uniform(random, 0, vocab - 1)] = 1;
    const LogprobsParams params =
        Params(logits, static_cast<int32_t>(Uniform(random, 0, vocab - 1)),
               static_cast<int32_t>(Uniform(random, 0, kMaxTopLogprobs)));
    Logprobs got, want;
    ASSERT_EQ(LogprobsCpu(params, &got), KernelStatus::kOk) << "case " << i;
    ASSERT_EQ(LogprobsRef(params, &want), KernelStatus::kOk);
    ASSERT_EQ(TopIds(got), TopIds(want)) << "case " << i;
    std::vector<float> got_values(got.top_logprobs, got.top_logprobs + got.num_top);
    std::vector<float> want_values(want.top_logprobs, want.top_logprobs + want.num_top);
    got_values.push_back(got.logprob);
    want_values.push_back(want.logprob);
    for (size_t v = 0; v < got_values.size(); ++v) {
      ASSERT_LE(got_values[v], 0);
      if (want_values[v] != -kInfinity) continue;
      ASSERT_EQ(got_values[v], -kInfinity);
      got_values[v] = want_values[v] = 0;
    }
    ASSERT_TRUE(Near(got_values, want_values, longhaul::testing::kLogprobTolerance)) << i;
  }
}

}  // namespace
}  // namespace longhaul::kernels
