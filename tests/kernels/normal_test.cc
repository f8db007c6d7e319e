#include "kernels/random/normal.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "tests/testing/kernel_testing.h"

namespace longhaul::kernels {
namespace {

using longhaul::testing::FreshRandom;
using longhaul::testing::kNormalTolerance;
using longhaul::testing::Near;
using longhaul::testing::Poisoned;
using longhaul::testing::SameBits;
using longhaul::testing::ThreadParallel;
using longhaul::testing::Uniform;

std::vector<float> Make(NormalParams<float> p, int threads = 1) {
  std::vector<float> out = Poisoned(p.num_rows * p.num_cols);
  p.out = out.data();
  ThreadParallel parallel(threads);
  EXPECT_EQ(NormalCpu(p, parallel), KernelStatus::kOk);
  return out;
}

TEST(Philox4x32, HasThePublishedValues) {  // kat_vectors of Random123
  const PhiloxWords zeros = Philox4x32(0, {{0, 0, 0, 0}});
  const uint32_t want_zeros[] = {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8};
  const PhiloxWords ones = Philox4x32(~uint64_t{0}, {{~0u, ~0u, ~0u, ~0u}});
  const uint32_t want_ones[] = {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd};
  const PhiloxWords pi =
      Philox4x32(0x299f31d0a4093822, {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}});
  const uint32_t want_pi[] = {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1};
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(zeros.word[i], want_zeros[i]) << i;
    EXPECT_EQ(ones.word[i], want_ones[i]) << i;
    EXPECT_EQ(pi.word[i], want_pi[i]) << i;
  }
}

TEST(Normal, EqualsTheReference) {
  std::mt19937_64 random = FreshRandom();
  for (const int64_t cols : {1, 2, 3, 4, 5, 7, 8, 9, 64, 131}) {
    NormalParams<float> p = {.seed = random(),
                             .stream = random(),
                             .row_begin = Uniform(random, 0, 1'000'000),
                             .col_begin = Uniform(random, 0, 1'000'000),
                             .num_rows = 33,
                             .num_cols = cols,
                             .sigma = 1};
    std::vector<float> want = Poisoned(p.num_rows * cols);
    const std::vector<float> got = Make(p);
    p.out = want.data();
    ASSERT_EQ(NormalRef(p), KernelStatus::kOk);
    EXPECT_TRUE(Near(got, want, kNormalTolerance)) << cols;
  }
}

// Kolmogorov and Smirnov's distance has P(sqrt(n) D > 3) of 3e-8.
TEST(Normal, HasTheNormalDistribution) {
  std::mt19937_64 random = FreshRandom();
  for (int turn = 0; turn < 3; ++turn) {
    constexpr int64_t kSize = 400'000;
    constexpr double kSigma = 0.02;
    std::vector<float> values = Make({.seed = random(),
                                      .stream = random(),
                                      .num_rows = 400,
                                      .num_cols = 1000,
                                      .sigma = static_cast<float>(kSigma)});
    double moments[5] = {};
    for (const float value : values) {
      for (int power = 1; power <= 4; ++power) {
        moments[power] += std::pow(value / kSigma, power) / kSize;
      }
    }
    // Six deviations: of powers 1 to 4 the variances are 1, 2, 15 and 96.
    EXPECT_NEAR(moments[1], 0, 6 * std::sqrt(1.0 / kSize));
    EXPECT_NEAR(moments[2], 1, 6 * std::sqrt(2.0 / kSize));
    EXPECT_NEAR(moments[3], 0, 6 * std::sqrt(15.0 / kSize));
    EXPECT_NEAR(moments[4], 3, 6 * std::sqrt(96.0 / kSize));
    std::sort(values.begin(), values.end());
    double distance = 0;
    for (int64_t i = 0; i < kSize; ++i) {
      const double below = 0.5 * std::erfc(-values[i] / kSigma / std::sqrt(2.0));
      distance = std::max({distance, std::abs(below - static_cast<double>(i) / kSize),
                           std::abs(below - static_cast<double>(i + 1) / kSize)});
    }
    EXPECT_LT(std::sqrt(double{kSize}) * distance, 3);
  }
}

// Of neighbours in a row, in a column, in streams and in seeds.
TEST(Normal, ElementsAreUncorrelated) {
  std::mt19937_64 random = FreshRandom();
  constexpr int64_t kRows = 300;
  constexpr int64_t kCols = 1000;
  const NormalParams<float> p = {
      .seed = random(), .stream = random() >> 1, .num_rows = kRows, .num_cols = kCols, .sigma = 1};
  const std::vector<float> values = Make(p);
  const auto correlation = [&](const std::vector<float>& others, int64_t shift) {
    double sum = 0;
    const int64_t count = kRows * kCols - shift;
    for (int64_t i = 0; i < count; ++i) sum += double{values[i]} * others[i + shift];
    return std::abs(sum) / std::sqrt(static_cast<double>(count));
  };
  for (const int64_t shift : {int64_t{1}, int64_t{2}, int64_t{3}, int64_t{4}, kCols, kCols + 1}) {
    EXPECT_LT(correlation(values, shift), 6) << shift;
  }
  NormalParams<float> other = p;
  other.stream += 1;
  EXPECT_LT(correlation(Make(other), 0), 6);
  other = p;
  other.seed += 1;
  EXPECT_LT(correlation(Make(other), 0), 6);
}

TEST(Normal, AWindowHasTheElementsOfTheWhole) {
  std::mt19937_64 random = FreshRandom();
  const NormalParams<float> whole = {
      .seed = random(), .stream = random(), .num_rows = 37, .num_cols = 61, .sigma = 0.5};
  const std::vector<float> all = Make(whole);
  for (int turn = 0; turn < 200; ++turn) {
    NormalParams<float> p = whole;
    p.row_begin = Uniform(random, 0, whole.num_rows - 1);
    p.col_begin = Uniform(random, 0, whole.num_cols - 1);
    p.num_rows = Uniform(random, 1, whole.num_rows - p.row_begin);
    p.num_cols = Uniform(random, 1, whole.num_cols - p.col_begin);
    const std::vector<float> part = Make(p);
    for (int64_t r = 0; r < p.num_rows; ++r) {
      ASSERT_TRUE(SameBits(part.data() + r * p.num_cols,
                           all.data() + (p.row_begin + r) * whole.num_cols + p.col_begin,
                           p.num_cols));
    }
  }
}

TEST(Normal, BitsDoNotDependOnThreads) {
  std::mt19937_64 random = FreshRandom();
  const NormalParams<float> p = {
      .seed = random(), .stream = 5, .num_rows = 500, .num_cols = 333, .sigma = 1};
  const std::vector<float> one = Make(p);
  EXPECT_TRUE(SameBits(Make(p, 3), one));
}

TEST(Normal, ReachesTheEndsOfItsMatrix) {
  constexpr int64_t kLast = (int64_t{1} << 32) - 1;
  const std::vector<float> corner =
      Make({.row_begin = kLast, .col_begin = kLast, .num_rows = 1, .num_cols = 1, .sigma = 1});
  EXPECT_TRUE(std::isfinite(corner[0]));
  EXPECT_NE(corner, Make({.row_begin = kLast, .num_rows = 1, .num_cols = 1, .sigma = 1}));
}

TEST(Normal, RefusesWhatIsNoWindow) {
  float out[4];
  const NormalParams<float> good = {.num_rows = 2, .num_cols = 2, .sigma = 1, .out = out};
  std::vector<NormalParams<float>> bad(7, good);
  bad[0].row_begin = -1;
  bad[1].col_begin = -1;
  bad[2].num_rows = -1;
  bad[3].num_cols = -1;
  bad[4].row_begin = (int64_t{1} << 32) - 1;
  bad[5].sigma = -1;
  bad[6].out = nullptr;
  ThreadParallel parallel(1);
  for (size_t i = 0; i < bad.size(); ++i) {
    EXPECT_EQ(NormalCpu(bad[i], parallel), KernelStatus::kInvalidArgument) << i;
    EXPECT_EQ(NormalRef(bad[i]), KernelStatus::kInvalidArgument) << i;
  }
  EXPECT_EQ(NormalCpu({.sigma = 1}, parallel), KernelStatus::kOk);
}

}  // namespace
}  // namespace longhaul::kernels
