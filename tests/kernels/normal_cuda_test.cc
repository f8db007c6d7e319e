#include <algorithm>
#include <vector>

#include "kernels/random/normal.h"
#include "tests/testing/cuda_testing.h"

namespace longhaul::kernels {
namespace {

using longhaul::testing::DeviceArray;
using longhaul::testing::FreshRandom;
using longhaul::testing::kBFloat16Tolerance;
using longhaul::testing::kNormalTolerance;
using longhaul::testing::Near;
using longhaul::testing::Poisoned;
using longhaul::testing::ToFloat;
using longhaul::testing::Uniform;

class NormalOnDevice : public longhaul::testing::CudaTest {
 protected:
  // With `shift` elements between the array's begin and the matrix.
  std::vector<float> Make(NormalParams<BFloat16> p, int64_t shift = 0) const {
    const DeviceArray<BFloat16> out(p.num_rows * p.num_cols + shift);
    p.out = out.data() + shift;
    EXPECT_EQ(NormalCuda(p, stream()), KernelStatus::kOk);
    std::vector<float> values = ToFloat(out.Download());
    return {values.begin() + shift, values.end()};
  }
};

TEST_F(NormalOnDevice, EqualsTheReferenceRounded) {
  std::mt19937_64 random = FreshRandom();
  for (const int64_t cols : {1, 3, 7, 8, 9, 16, 255, 256, 264, 3584}) {
    for (const int64_t col_begin : {0, 1, 8, 1'234'567, 18'944}) {
      const NormalParams<BFloat16> p = {.seed = random(),
                                        .stream = random(),
                                        .row_begin = Uniform(random, 0, 1'000'000),
                                        .col_begin = col_begin,
                                        .num_rows = 33,
                                        .num_cols = cols,
                                        .sigma = 1};
      std::vector<float> want = Poisoned(p.num_rows * cols);
      ASSERT_EQ(NormalRef({.seed = p.seed,
                           .stream = p.stream,
                           .row_begin = p.row_begin,
                           .col_begin = p.col_begin,
                           .num_rows = p.num_rows,
                           .num_cols = p.num_cols,
                           .sigma = p.sigma,
                           .out = want.data()}),
                KernelStatus::kOk);
      EXPECT_TRUE(Near(Make(p), want, {kNormalTolerance.abs, kBFloat16Tolerance.rel}))
          << cols << " columns from " << col_begin;
    }
  }
}

TEST_F(NormalOnDevice, AWindowHasTheElementsOfTheWholeWhereverItLies) {
  std::mt19937_64 random = FreshRandom();
  const NormalParams<BFloat16> whole = {
      .seed = random(), .stream = random(), .num_rows = 37, .num_cols = 304, .sigma = 0.02f};
  const std::vector<float> all = Make(whole);
  for (int turn = 0; turn < 100; ++turn) {
    NormalParams<BFloat16> p = whole;
    p.row_begin = Uniform(random, 0, whole.num_rows - 1);
    p.col_begin = Uniform(random, 0, whole.num_cols - 1);
    p.num_rows = Uniform(random, 1, whole.num_rows - p.row_begin);
    p.num_cols = Uniform(random, 1, whole.num_cols - p.col_begin);
    if (turn % 2 == 0) {  // as shards do: whole vectors
      p.col_begin = p.col_begin / 8 * 8;
      p.num_cols = std::max<int64_t>(8, p.num_cols / 8 * 8);
    }
    const std::vector<float> part = Make(p, turn % 3);
    for (int64_t i = 0; i < p.num_rows * p.num_cols; ++i) {
      const int64_t row = p.row_begin + i / p.num_cols;
      const int64_t col = p.col_begin + i % p.num_cols;
      ASSERT_EQ(part[i], all[row * whole.num_cols + col]) << row << " " << col;
    }
  }
}

// A shard of the largest matrix of a 14B model, in part: offsets beyond 2^31.
TEST_F(NormalOnDevice, ReachesElementsBeyond31Bits) {
  const NormalParams<BFloat16> p = {
      .seed = 1, .stream = 2, .num_rows = 300'000, .num_cols = 8192, .sigma = 1};
  size_t free = 0;
  size_t total = 0;
  ASSERT_EQ(cudaMemGetInfo(&free, &total), cudaSuccess);
  if (free < size_t{6} << 30) GTEST_SKIP() << free << " bytes free";
  const DeviceArray<BFloat16> out(p.num_rows * p.num_cols);
  NormalParams<BFloat16> filled = p;
  filled.out = out.data();
  ASSERT_EQ(NormalCuda(filled, stream()), KernelStatus::kOk);
  Sync();
  std::vector<BFloat16> last(static_cast<size_t>(p.num_cols));
  ASSERT_EQ(cudaMemcpy(last.data(), out.data() + (p.num_rows - 1) * p.num_cols,
                       last.size() * sizeof(BFloat16), cudaMemcpyDeviceToHost),
            cudaSuccess);
  NormalParams<BFloat16> row = p;
  row.row_begin = p.num_rows - 1;
  row.num_rows = 1;
  EXPECT_EQ(ToFloat(last), Make(row));
}

TEST(NormalCudaSizes, AreRefusedUnlessAWindow) {
  BFloat16 out[4];
  NormalParams<BFloat16> bad = {.num_rows = 2, .num_cols = 2, .sigma = -1, .out = out};
  EXPECT_EQ(NormalCuda(bad, {}), KernelStatus::kInvalidArgument);
  bad.sigma = 1;
  bad.out = nullptr;
  EXPECT_EQ(NormalCuda(bad, {}), KernelStatus::kInvalidArgument);
  bad.num_rows = 0;
  EXPECT_EQ(NormalCuda(bad, {}), KernelStatus::kOk);
}

}  // namespace
}  // namespace longhaul::kernels
