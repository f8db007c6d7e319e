#include "common/cost_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace longhaul {
namespace {

UnitShape Shape(int64_t history, int64_t count) {
  UnitShape shape;
  shape.Add(history, count);
  return shape;
}

double Seconds(const CostCoefficients& cost, int64_t history, int64_t count) {
  return PredictSeconds(cost, Shape(history, count));
}

TEST(CostModel, PredictsTheFormula) {
  const CostCoefficients cost = {.c = 0.5, .g = 0.25, .b = 2, .a = 0.125};
  EXPECT_DOUBLE_EQ(Seconds(cost, 8, 4), 0.5 + 0.25 * 8 + 2 * 4 + 0.125 * (2 * 8 * 4 + 16));
}

TEST(CostModel, PrefillInUnitsIsTheSumOfItsUnits) {
  const CostCoefficients cost = {.c = 0.01, .g = 1e-7, .b = 1e-5, .a = 1e-10};
  for (const int64_t history : {0, 256, 100'000}) {
    for (const int64_t count : {1, 255, 256, 257, 8192, 20'000}) {
      double sum = 0;
      for (int64_t begin = 0; begin < count; begin += 256) {
        sum += Seconds(cost, history + begin, std::min<int64_t>(256, count - begin));
      }
      EXPECT_NEAR(PredictPrefillSeconds(cost, history, count, 256), sum, 1e-9 * sum)
          << "history=" << history << " count=" << count;
    }
  }
  EXPECT_EQ(PredictPrefillSeconds(cost, 5, 0, 256), 0);
}

TEST(CostModel, IsUnknownUntilItObserves) {
  CostModel model;
  EXPECT_FALSE(model.known());
  model.Observe(Shape(0, 0), 1);    // no work: says nothing
  model.Observe(Shape(0, 100), 0);  // no time: not a measurement
  EXPECT_FALSE(model.known());
  model.Observe(Shape(0, 100), 0.1);
  EXPECT_TRUE(model.known());
  EXPECT_NEAR(PredictSeconds(model.coefficients(), Shape(0, 100)), 0.1, 1e-3);
}

TEST(CostModel, RecoversCoefficientsFromNoisySamples) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed=" << seed);
  std::mt19937 random(seed);
  const CostCoefficients truth = {.c = 0.004, .g = 2e-8, .b = 3e-5, .a = 4e-10};
  CostModel model;
  std::uniform_real_distribution<double> noise(0.98, 1.02);
  for (int i = 0; i < 200; ++i) {
    const auto history = std::uniform_int_distribution<int64_t>(0, 500'000)(random);
    const auto count = std::uniform_int_distribution<int64_t>(1, 8192)(random);
    model.Observe(Shape(history, count), Seconds(truth, history, count) * noise(random));
  }
  for (const int64_t history : {0, 10'000, 250'000}) {
    for (const int64_t count : {256, 2048, 8192}) {
      const double expected = Seconds(truth, history, count);
      EXPECT_NEAR(Seconds(model.coefficients(), history, count), expected, 0.1 * expected)
          << "history=" << history << " count=" << count;
    }
  }
}

TEST(CostModel, CoefficientsAreNeverNegative) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed=" << seed);
  std::mt19937 random(seed);
  CostModel model;
  for (int i = 0; i < 300; ++i) {
    // Times that have nothing to do with the shapes.
    model.Observe(Shape(std::uniform_int_distribution<int64_t>(0, 100'000)(random),
                        std::uniform_int_distribution<int64_t>(1, 8192)(random)),
                  std::uniform_real_distribution<double>(0.001, 10)(random));
    const CostCoefficients& cost = model.coefficients();
    ASSERT_TRUE(cost.c >= 0 && cost.g >= 0 && cost.b >= 0 && cost.a >= 0) << "after " << i;
  }
}

TEST(CostModel, FollowsAMachineThatSlowsDown) {
  CostModel model;
  const CostCoefficients before = {.c = 0.01, .g = 0, .b = 1e-5, .a = 1e-10};
  auto feed = [&model, &before](double slower) {
    for (int i = 0; i < 300; ++i) {
      const int64_t history = i % 10 * 8192;
      model.Observe(Shape(history, 8192), slower * Seconds(before, history, 8192));
    }
  };
  feed(1);
  feed(2);
  const double expected = 2 * Seconds(before, 40'960, 8192);
  EXPECT_NEAR(Seconds(model.coefficients(), 40'960, 8192), expected, 0.02 * expected);
}

// Units of a few tokens on a busy machine: what they seem to say of histories is noise, which a
// long prompt's prediction would multiply by the square of its length.
TEST(CostModel, ShortUnitsSayNothingOfLongHistories) {
  const unsigned seed = std::random_device()();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  std::uniform_real_distribution<double> noise(0.3, 3);
  CostModel model;
  for (int i = 0; i < 100; ++i) {
    const int64_t tokens = 1 + static_cast<int64_t>(random() % 100);
    model.Observe(Shape(0, tokens), (0.002 + 1e-4 * static_cast<double>(tokens)) * noise(random));
    EXPECT_EQ(model.coefficients().a, 0);
    EXPECT_EQ(model.coefficients().g, 0);
  }
  EXPECT_LE(model.coefficients().reach_tokens, 100);
  EXPECT_TRUE(model.coefficients().Reaches(2));
  EXPECT_FALSE(model.coefficients().Reaches(201));
  EXPECT_LT(PredictPrefillSeconds(model.coefficients(), 0, 280'000, 8192), 1000);
}

TEST(CostModel, KnowsWhereItExtrapolates) {
  CostModel model;
  EXPECT_FALSE(model.Covers(Shape(0, 1)));
  model.Observe(Shape(1000, 100), 1);
  EXPECT_TRUE(model.Covers(Shape(0, 1)));
  EXPECT_TRUE(model.Covers(Shape(0, 200)));
  EXPECT_FALSE(model.Covers(Shape(0, 201)));
  EXPECT_FALSE(model.Covers(Shape(10'000, 100))) << "ten times the history";
}

TEST(CostModel, StartsFromWhatWasKnownBefore) {
  const CostCoefficients prior = {.c = 0.01, .g = 1e-8, .b = 1e-5, .a = 1e-10};
  const CostModel model(prior);
  EXPECT_TRUE(model.known());
  const double expected = Seconds(prior, 100'000, 8192);
  EXPECT_NEAR(Seconds(model.coefficients(), 100'000, 8192), expected, 0.01 * expected);
}

TEST(CostModel, WhatTwoShapesCannotTellIsNotReadIntoThem) {
  const CostCoefficients truth = {.c = 0, .g = 0, .b = 1e-4, .a = 5e-8};
  CostModel model;
  for (const double noise : {1.0, 1.04})
    model.Observe(Shape(0, 256), noise * Seconds(truth, 0, 256));
  model.Observe(Shape(2048, 2048), Seconds(truth, 2048, 2048));
  EXPECT_EQ(model.coefficients().c, 0);
  EXPECT_EQ(model.coefficients().g, 0);
  EXPECT_NEAR(model.coefficients().b, truth.b, 0.05 * truth.b);
  EXPECT_NEAR(model.coefficients().a, truth.a, 0.05 * truth.a);
}

TEST(CostModel, WhatWasKnownBeforeReachesAsFarAsItSays) {
  for (const int64_t reach : {100, 5'000, 9'000, 200'000}) {
    SCOPED_TRACE(testing::Message() << "reach=" << reach);
    const CostCoefficients prior = {
        .c = 0.01, .g = 1e-8, .b = 1e-5, .a = 1e-10, .reach_tokens = reach};
    CostModel model(prior);
    EXPECT_EQ(model.coefficients().reach_tokens, reach);
    EXPECT_FALSE(model.Covers(Shape(0, 4 * reach)));
    model.Observe(Shape(0, 100), Seconds(prior, 0, 100));
    EXPECT_EQ(model.coefficients().reach_tokens, reach);
    const int64_t half = reach / 2;
    const double expected = Seconds(prior, half, half);
    EXPECT_NEAR(Seconds(model.coefficients(), half, half), expected, 0.02 * expected);
  }
}

}  // namespace
}  // namespace longhaul
