#include "worker/leader/cost_fit.h"

#include <gtest/gtest.h>

#include <vector>

namespace longhaul::worker::leader {
namespace {

constexpr CostCoefficients kTruth = {.c = 0.002, .g = 2e-8, .b = 2e-5, .a = 3e-11};

CostSample Sample(int64_t history, int64_t count, double factor = 1) {
  CostSample sample;
  sample.shape.Add(history, count);
  sample.seconds = factor * PredictSeconds(kTruth, sample.shape);
  return sample;
}

std::vector<CostSample> Samples(const std::vector<double>& factors) {
  std::vector<CostSample> samples;
  const std::pair<int64_t, int64_t> shapes[] = {{0, 256},    {0, 1024},    {0, 2048},
                                                {4096, 256}, {2048, 2048}, {8192, 512}};
  for (size_t i = 0; i < 12; ++i) {
    const auto& [history, count] = shapes[i % 6];
    samples.push_back(Sample(history, count, factors[i % factors.size()]));
  }
  return samples;
}

double Predicted(const CostFit& fit, const CostSample& sample) {
  return PredictSeconds(fit.coefficients(), sample.shape);
}

void Observe(CostFit& fit, const CostSample& sample) { fit.Observe(sample.shape, sample.seconds); }

TEST(CostFit, BelievesSamplesThatFit) {
  CostFit fit;
  EXPECT_FALSE(fit.known());
  fit.Learn(Samples({1, 1.05, 0.95}));
  EXPECT_TRUE(fit.known());
  EXPECT_LT(fit.error(), 0.1);
  EXPECT_TRUE(fit.Covers(Sample(4096, 2048).shape));
  EXPECT_TRUE(fit.checked());
}

TEST(CostFit, DoesNotBelieveSamplesThatDoNotFit) {
  CostFit fit;
  fit.Learn(Samples({0.1, 1, 10, 3, 0.3}));
  EXPECT_FALSE(fit.known());
  EXPECT_GT(fit.error(), CostFit::kBelieved);
  EXPECT_EQ(Predicted(fit, Sample(0, 1024)), 0);
  EXPECT_FALSE(fit.Covers(Sample(0, 1024).shape));
}

TEST(CostFit, TooFewSamplesAreLearntUnchecked) {
  CostFit fit;
  fit.Learn({});
  EXPECT_FALSE(fit.known());
  const std::vector<CostSample> few = {Sample(0, 256), Sample(0, 1024, 1.02)};
  fit.Learn(few);
  EXPECT_TRUE(fit.known());
  EXPECT_NEAR(Predicted(fit, few[0]), few[0].seconds, 0.1 * few[0].seconds);
  EXPECT_FALSE(fit.checked());
  for (int unit = 0; unit < CostFit::kMinUnits; ++unit) {
    EXPECT_FALSE(fit.checked());
    Observe(fit, Sample(0, 1024));
  }
  EXPECT_TRUE(fit.checked());
}

TEST(CostFit, AColdUnitCountsOnlyWhileNothingElseIsKnown) {
  const CostSample cold = Sample(0, 1024, 20);
  const CostSample warm = Sample(0, 1024);
  CostFit fit;
  Observe(fit, cold);
  EXPECT_NEAR(Predicted(fit, cold), cold.seconds, 0.01 * cold.seconds) << "better than nothing";
  fit.Restore(kTruth);
  fit.GroupUp();
  Observe(fit, cold);
  EXPECT_NEAR(Predicted(fit, warm), warm.seconds, 0.01 * warm.seconds);
  EXPECT_EQ(fit.error(), 0);
  Observe(fit, cold);  // no longer cold: slower by itself
  EXPECT_GT(fit.error(), 0);
}

TEST(CostFit, BeliefEndsAndBeginsWithTheErrorsOfLate) {
  CostFit fit;
  fit.Learn(Samples({1}));
  int units = 0;
  // Short and long units take turns in being far too slow: no coefficients say that.
  for (; fit.known() && units < 500; ++units) {
    Observe(fit, Sample(0, 256, units % 2 == 0 ? 30 : 0.3));
  }
  EXPECT_GT(units, 10) << "not by a single one";
  ASSERT_LT(units, 500);
  EXPECT_GT(fit.error(), CostFit::kDisbelieved);
  for (units = 0; !fit.known() && units < 500; ++units) Observe(fit, Sample(0, 256));
  ASSERT_LT(units, 500);
  EXPECT_LE(fit.error(), CostFit::kBelieved);
  const CostSample sample = Sample(0, 256);
  EXPECT_NEAR(Predicted(fit, sample), sample.seconds, 0.25 * sample.seconds);
}

TEST(CostFit, OnePauseChangesNothing) {
  CostFit fit;
  fit.Learn(Samples({1}));
  Observe(fit, Sample(0, 1024, 10'000));
  EXPECT_TRUE(fit.known());
  EXPECT_LE(fit.error(), 1.0 / 32 + 0.01);
}

}  // namespace
}  // namespace longhaul::worker::leader
