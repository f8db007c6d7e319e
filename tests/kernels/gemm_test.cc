#include "kernels/gemm/gemm.h"

#include <vector>

#include "tests/testing/kernel_testing.h"

namespace longhaul::kernels {
namespace {

using longhaul::testing::FreshRandom;
using longhaul::testing::Near;
using longhaul::testing::Normal;
using longhaul::testing::Poisoned;
using longhaul::testing::SameBits;
using longhaul::testing::ThreadParallel;
using longhaul::testing::Uniform;

struct Problem {
  Problem(std::mt19937_64& random, int64_t rows, int64_t cols, int64_t depth)
      : m(rows),
        n(cols),
        k(depth),
        x(Normal(random, m * k)),
        weight(Normal(random, n * k)),
        bias(Normal(random, n)) {}

  // Rows [begin, begin + rows) of x, alone in their call.
  std::vector<float> Run(int64_t begin, int64_t rows, Parallel& parallel) const {
    std::vector<float> y = Poisoned(rows * n);
    GemmParams params = {.x = x.data() + begin * k,
                         .weight = weight.data(),
                         .bias = bias.data(),
                         .m = rows,
                         .n = n,
                         .k = k,
                         .y = y.data()};
    std::vector<float> workspace = Poisoned(GemmCpuWorkspaceBytes(params) / sizeof(float));
    params.workspace = workspace.data();
    EXPECT_EQ(GemmCpu(params, parallel), KernelStatus::kOk);
    return y;
  }

  int64_t m, n, k;
  std::vector<float> x, weight, bias;
};

TEST(Gemm, EqualsReferenceAroundTileEdges) {
  std::mt19937_64 random = FreshRandom();
  for (const int64_t m : {1, 7, 8, 15, 16, 17, 47, 48, 49, 191, 192, 193, 255, 256, 257}) {
    for (const auto& [n, k] : {std::pair<int64_t, int64_t>{1, 1},
                               {37, 33},
                               {127, 64},
                               {128, 7},
                               {129, 65},
                               {300, 100}}) {
      SCOPED_TRACE(::testing::Message() << "m " << m << " n " << n << " k " << k);
      const Problem problem(random, m, n, k);
      std::vector<float> want = Poisoned(m * n);
      ASSERT_EQ(GemmRef({.x = problem.x.data(),
                         .weight = problem.weight.data(),
                         .bias = problem.bias.data(),
                         .m = m,
                         .n = n,
                         .k = k,
                         .y = want.data()}),
                KernelStatus::kOk);
      SerialParallel serial;
      EXPECT_TRUE(Near(problem.Run(0, m, serial), want,
                       longhaul::testing::GemmTolerance(static_cast<double>(k))));
    }
  }
}

TEST(Gemm, WithoutBiasIsBiasOfZero) {
  std::mt19937_64 random = FreshRandom();
  Problem problem(random, 50, 130, 64);
  SerialParallel serial;
  std::fill(problem.bias.begin(), problem.bias.end(), 0.0f);
  const std::vector<float> want = problem.Run(0, 50, serial);
  std::vector<float> y = Poisoned(int64_t{50} * 130);
  GemmParams params = {.x = problem.x.data(),
                       .weight = problem.weight.data(),
                       .m = 50,
                       .n = 130,
                       .k = 64,
                       .y = y.data()};
  std::vector<float> workspace = Poisoned(GemmCpuWorkspaceBytes(params) / sizeof(float));
  params.workspace = workspace.data();
  ASSERT_EQ(GemmCpu(params, serial), KernelStatus::kOk);
  EXPECT_TRUE(SameBits(y, want));
}

// Holds oneDNN to what gemm_cpu.cc leans on, for the shapes of the models: rows alone, at any index
// and in any company have the same bits.
TEST(Gemm, ARowHasTheSameBitsInAnyCompany) {
  std::mt19937_64 random = FreshRandom();
  constexpr int64_t kRows = 460;
  for (const auto& [n, k] : {std::pair<int64_t, int64_t>{1024, 256},
                             {256, 512},
                             {1536, 256},
                             {256, 768},
                             {2048, 256},
                             {1, 33},
                             {152, 100},
                             {512, 3584},
                             {256, 5120},
                             {130, 18944}}) {
    SCOPED_TRACE(::testing::Message() << "n " << n << " k " << k);
    const int64_t rows = k > 10000 ? 260 : kRows;
    const Problem problem(random, rows, n, k);
    ThreadParallel threads(2);
    const std::vector<float> whole = problem.Run(0, rows, threads);
    for (int64_t begin = 0; begin < rows;) {
      const int64_t count = std::min(Uniform(random, 1, Uniform(random, 1, 250)), rows - begin);
      const std::vector<float> part = problem.Run(begin, count, threads);
      ASSERT_TRUE(SameBits(part.data(), &whole[begin * n], count * n)) << begin << " + " << count;
      begin += count;
    }
  }
}

TEST(Gemm, AnyNumberOfThreadsGivesTheSameBits) {
  std::mt19937_64 random = FreshRandom();
  const Problem problem(random, 333, 700, 256);
  SerialParallel serial;
  const std::vector<float> want = problem.Run(0, 333, serial);
  for (const int num_threads : {2, 3}) {
    ThreadParallel threads(num_threads);
    EXPECT_TRUE(SameBits(problem.Run(0, 333, threads), want)) << num_threads << " threads";
  }
}

TEST(Gemm, RefusesMissingWorkspaceAndEmptyShapes) {
  SerialParallel serial;
  const float one = 1;
  float y = 0;
  GemmParams params = {.x = &one, .weight = &one, .m = 1, .n = 1, .k = 1, .y = &y};
  EXPECT_EQ(GemmCpu(params, serial), KernelStatus::kInvalidArgument);
  params.m = 0;
  EXPECT_EQ(GemmCpu(params, serial), KernelStatus::kOk);
  params.n = 0;
  EXPECT_EQ(GemmCpu(params, serial), KernelStatus::kInvalidArgument);
}

}  // namespace
}  // namespace longhaul::kernels
