#include "kernels/gemm/gemm_cuda.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "kernels/fused/silu_mul.h"
#include "kernels/gemm/gemm.h"
#include "kernels/gemm/gemv_cuda.h"
#include "tests/testing/cuda_testing.h"

namespace longhaul::kernels {
namespace {

using longhaul::testing::CheckCuda;
using longhaul::testing::CudaTest;
using longhaul::testing::DeviceArray;
using longhaul::testing::FreshRandom;
using longhaul::testing::NormalBFloat16;
using longhaul::testing::Poisoned;
using longhaul::testing::ToBFloat16;
using longhaul::testing::ToFloat;
using longhaul::testing::Tolerance;
using longhaul::testing::Uniform;

constexpr int64_t kSampledOutputs = 2000;

struct Shape {
  int64_t n;
  int64_t k;
};
constexpr Shape kDemoShapes[] = {{1024, 256}, {256, 512}, {1536, 256}, {256, 768}, {2048, 256}};
constexpr Shape k7bShapes[] = {{4608, 3584}, {3584, 3584}, {37'888, 3584}, {3584, 18'944}};
constexpr Shape k7bLogits = {152'064, 3584};

// Random signs, exponents of 2^-5 to 2^2 and mantissas: quicker than normal numbers, and sums of
// their products are as inexact.
std::vector<BFloat16> QuickBFloat16(std::mt19937_64& random, int64_t size) {
  std::vector<BFloat16> values(size);
  uint64_t bits = 0;
  for (int64_t i = 0; i < size; ++i) {
    if (i % 4 == 0) bits = random();
    const auto r = static_cast<uint32_t>(bits >> (16 * (i % 4))) & 0xffff;
    const uint32_t exponent = 122 + ((r >> 7) & 7);
    values[i].bits = static_cast<uint16_t>((r & 0x8000) | exponent << 7 | (r & 0x7f));
  }
  return values;
}

// The bound of sums in any order (tolerances.h) for products of this standard deviation, twice, as
// tensor cores truncate; and for outputs in bf16 half an ulp.
Tolerance GemmCudaTolerance(double k, double deviation, bool is_bfloat16) {
  const Tolerance sums = longhaul::testing::GemmTolerance(k);
  return {2 * deviation * sums.abs, sums.rel + (is_bfloat16 ? 0x1p-8 : 0)};
}

// Of products of two QuickBFloat16: the variance of one, the mean of 4^e over e in [-5, 2] times
// 7/3 for mantissas in [1, 2).
constexpr double kQuickDeviation = 2.67 * 7 / 3;

class GemmCudaTest : public CudaTest {
 protected:
  void SetUp() override {
    CudaTest::SetUp();
    if (IsSkipped()) return;
    gemm_ = GemmCuda::Create();
    ASSERT_NE(gemm_, nullptr);
  }

  KernelStatus Run(const GemmCudaParams& p) { return gemm_->Run(p, stream()); }

  std::unique_ptr<GemmCuda> gemm_;
};

// x, weight and bias on both sides.
struct Problem {
  Problem(std::vector<BFloat16> x_values, std::vector<BFloat16> weights,
          std::vector<BFloat16> biases, Shape shape)
      : host_x(std::move(x_values)),
        host_weight(std::move(weights)),
        host_bias(std::move(biases)),
        x(host_x),
        weight(host_weight),
        bias(host_bias),
        n(shape.n),
        k(shape.k) {}

  static Problem Quick(std::mt19937_64& random, int64_t rows, Shape shape) {
    return {QuickBFloat16(random, rows * shape.k), QuickBFloat16(random, shape.n * shape.k),
            QuickBFloat16(random, shape.n), shape};
  }

  // Rows [begin, begin + rows) of x.
  GemmCudaParams Params(int64_t begin, int64_t rows) const {
    return {.x = x.data() + begin * k, .weight = weight.data(), .m = rows, .n = n, .k = k};
  }

  double Expected(int64_t row, int64_t column, bool has_bias) const {
    double sum = has_bias ? BFloat16ToFloat(host_bias[column].bits) : 0;
    for (int64_t i = 0; i < k; ++i) {
      sum += double{BFloat16ToFloat(host_x[row * k + i].bits)} *
             BFloat16ToFloat(host_weight[column * k + i].bits);
    }
    return sum;
  }

  std::vector<BFloat16> host_x, host_weight, host_bias;
  DeviceArray<BFloat16> x, weight, bias;
  int64_t n, k;
};

// Checks outputs at random places, the corners among them. `there` are those before, of a call that
// adds.
void ExpectSampled(const Problem& problem, const std::vector<float>& y, int64_t rows, bool has_bias,
                   const Tolerance& tolerance, std::mt19937_64& random,
                   const std::vector<float>& there = {}) {
  for (int64_t i = 0; i < kSampledOutputs; ++i) {
    const int64_t row = i < 4 ? (i / 2) * (rows - 1) : Uniform(random, 0, rows - 1);
    const int64_t column = i < 4 ? (i % 2) * (problem.n - 1) : Uniform(random, 0, problem.n - 1);
    const int64_t at = row * problem.n + column;
    const double product = problem.Expected(row, column, has_bias);
    const double want = product + (there.empty() ? 0 : there[at]);
    // A product that is added may be rounded before, to 8 bits.
    const double rounding = there.empty() ? 0 : std::ldexp(std::abs(product), -8);
    const double got = y[at];
    ASSERT_LE(std::abs(got - want), tolerance.abs + tolerance.rel * std::abs(want) + rounding)
        << "row " << row << " column " << column << ": " << got << ", not " << want;
  }
}

TEST_F(GemmCudaTest, EqualsReferenceForTheDemoModel) {
  std::mt19937_64 random = FreshRandom();
  for (const Shape shape : kDemoShapes) {
    for (const int64_t m : {1, 2, 3, 4, 5, 7, 127, 128, 129, 1000}) {
      SCOPED_TRACE(::testing::Message() << "m " << m << " n " << shape.n << " k " << shape.k);
      const std::vector<float> x = NormalBFloat16(random, m * shape.k);
      const std::vector<float> weight = NormalBFloat16(random, shape.n * shape.k);
      const std::vector<float> bias = NormalBFloat16(random, shape.n);
      const Problem problem(ToBFloat16(x), ToBFloat16(weight), ToBFloat16(bias), shape);
      std::vector<float> want = Poisoned(m * shape.n);
      const auto expect = [&](const std::vector<float>& got, const float* with_bias, bool rounded) {
        ASSERT_EQ(GemmRef({.x = x.data(),
                           .weight = weight.data(),
                           .bias = with_bias,
                           .m = m,
                           .n = shape.n,
                           .k = shape.k,
                           .y = want.data()}),
                  KernelStatus::kOk);
        const double k = static_cast<double>(shape.k);
        EXPECT_TRUE(longhaul::testing::Near(got, want, GemmCudaTolerance(k, 1, rounded)));
      };
      GemmCudaParams p = problem.Params(0, m);
      const DeviceArray<float> fp32(m * shape.n);
      p.y_fp32 = fp32.data();
      ASSERT_EQ(Run(p), KernelStatus::kOk);
      Sync();
      expect(fp32.Download(), nullptr, /*rounded=*/false);
      const DeviceArray<BFloat16> bf16(m * shape.n);
      p.y_fp32 = nullptr;
      p.y = bf16.data();
      p.bias = problem.bias.data();
      ASSERT_EQ(Run(p), KernelStatus::kOk);
      Sync();
      expect(ToFloat(bf16.Download()), bias.data(), /*rounded=*/true);
    }
  }
}

TEST_F(GemmCudaTest, EqualsSumsInDoubleForThe7b) {
  std::mt19937_64 random = FreshRandom();
  for (const Shape shape : k7bShapes) {
    constexpr int64_t kRows = 1000;
    const Problem problem = Problem::Quick(random, kRows, shape);
    for (const int64_t m : {1, 4, 7, 127, 128, 129, 1000}) {
      SCOPED_TRACE(::testing::Message() << "m " << m << " n " << shape.n << " k " << shape.k);
      const bool has_bias = shape.n == 4608;
      const DeviceArray<BFloat16> y(m * shape.n);
      GemmCudaParams p = problem.Params(0, m);
      p.y = y.data();
      if (has_bias) p.bias = problem.bias.data();
      ASSERT_EQ(Run(p), KernelStatus::kOk);
      Sync();
      ExpectSampled(problem, ToFloat(y.Download()), m, has_bias,
                    GemmCudaTolerance(static_cast<double>(shape.k), kQuickDeviation,
                                      /*is_bfloat16=*/true),
                    random);
    }
  }
}

TEST_F(GemmCudaTest, EqualsSumsInDoubleForLogitsOfThe7b) {
  std::mt19937_64 random = FreshRandom();
  const Problem problem = Problem::Quick(random, 129, k7bLogits);
  for (const int64_t m : {1, 4, 7, 129}) {
    SCOPED_TRACE(::testing::Message() << "m " << m);
    const DeviceArray<float> y(m * problem.n);
    GemmCudaParams p = problem.Params(0, m);
    p.y_fp32 = y.data();
    ASSERT_EQ(Run(p), KernelStatus::kOk);
    Sync();
    ExpectSampled(problem, y.Download(), m, /*has_bias=*/false,
                  GemmCudaTolerance(static_cast<double>(problem.k), kQuickDeviation,
                                    /*is_bfloat16=*/false),
                  random);
  }
}

// On either side of the borders between algorithms and tiles, for the layers that add their product
// to the residual stream.
TEST_F(GemmCudaTest, AddsToWhatIsThere) {
  std::mt19937_64 random = FreshRandom();
  for (const Shape shape : {kDemoShapes[1], kDemoShapes[3], k7bShapes[1], k7bShapes[3]}) {
    const Problem problem = Problem::Quick(random, 8193, shape);
    const std::vector<float> before = NormalBFloat16(random, 8193 * shape.n, 30);
    for (const int64_t m : {1, 2, 3, 127, 128, 129, 8193}) {
      SCOPED_TRACE(::testing::Message() << "m " << m << " n " << shape.n << " k " << shape.k);
      const std::vector<float> there(before.begin(), before.begin() + m * shape.n);
      const DeviceArray<BFloat16> y(ToBFloat16(there));
      GemmCudaParams p = problem.Params(0, m);
      p.adds = true;
      p.y = y.data();
      ASSERT_EQ(Run(p), KernelStatus::kOk);
      Sync();
      ExpectSampled(problem, ToFloat(y.Download()), m, /*has_bias=*/false,
                    GemmCudaTolerance(static_cast<double>(shape.k), kQuickDeviation,
                                      /*is_bfloat16=*/true),
                    random, there);
    }
  }
}

// What chunked prefill and prefix caching stand on.
TEST_F(GemmCudaTest, From128RowsOnARowsBitsDoNotDependOnTheirNumber) {
  std::mt19937_64 random = FreshRandom();
  constexpr int64_t kRows = 8192;
  std::vector<Shape> shapes(std::begin(kDemoShapes), std::end(kDemoShapes));
  shapes.insert(shapes.end(), std::begin(k7bShapes), std::end(k7bShapes));
  for (const Shape shape : shapes) {
    const Problem problem = Problem::Quick(random, kRows, shape);
    const std::vector<BFloat16> there = QuickBFloat16(random, kRows * shape.n);
    for (const auto& [has_bias, adds] :
         {std::pair{false, false}, std::pair{true, false}, std::pair{false, true}}) {
      const auto run = [&, has_bias = has_bias, adds = adds](int64_t begin, int64_t rows) {
        const DeviceArray<BFloat16> y(std::vector<BFloat16>(
            there.begin() + begin * shape.n, there.begin() + (begin + rows) * shape.n));
        GemmCudaParams p = problem.Params(begin, rows);
        p.y = y.data();
        p.adds = adds;
        if (has_bias) p.bias = problem.bias.data();
        EXPECT_EQ(Run(p), KernelStatus::kOk);
        Sync();
        return y.Download();
      };
      const std::vector<BFloat16> whole = run(0, kRows);
      for (const auto& [begin, rows] : {std::pair<int64_t, int64_t>{0, 128},
                                        {0, 129},
                                        {0, 1000},
                                        {77, 128},
                                        {4000, 2049},
                                        {kRows - 255, 255}}) {
        const std::vector<BFloat16> part = run(begin, rows);
        EXPECT_EQ(std::memcmp(part.data(), &whole[begin * shape.n], part.size() * sizeof(BFloat16)),
                  0)
            << "rows " << begin << " + " << rows << " n " << shape.n << " k " << shape.k
            << (has_bias ? " with bias" : "") << (adds ? ", added" : "");
      }
    }
  }
}

TEST_F(GemmCudaTest, UpTo2RowsARowsBitsDoNotDependOnTheirNumber) {
  std::mt19937_64 random = FreshRandom();
  for (const Shape shape : {kDemoShapes[0], k7bShapes[0], k7bShapes[3]}) {
    const Problem problem = Problem::Quick(random, 2, shape);
    const std::vector<float> there = NormalBFloat16(random, 2 * shape.n);
    for (const bool adds : {false, true}) {
      const auto run = [&](int64_t begin, int64_t rows) {
        const DeviceArray<float> y(std::vector<float>(there.begin() + begin * shape.n,
                                                      there.begin() + (begin + rows) * shape.n));
        GemmCudaParams p = problem.Params(begin, rows);
        p.y_fp32 = y.data();
        p.adds = adds;
        EXPECT_EQ(Run(p), KernelStatus::kOk);
        Sync();
        return y.Download();
      };
      const std::vector<float> whole = run(0, 2);
      for (int64_t row = 0; row < 2; ++row) {
        EXPECT_TRUE(longhaul::testing::SameBits(run(row, 1).data(), &whole[row * shape.n], shape.n))
            << "row " << row << " n " << shape.n << " k " << shape.k << (adds ? ", added" : "");
      }
    }
  }
}

TEST_F(GemmCudaTest, GatedHasTheBitsOfTheProductAndThenSiluMul) {
  std::mt19937_64 random = FreshRandom();
  for (const Shape shape : {Shape{16, 8}, Shape{48, 1032}, kDemoShapes[2], k7bShapes[2]}) {
    const Problem problem = Problem::Quick(random, 2, shape);
    const int64_t cols = shape.n / 2;
    for (const int64_t m : {1, 2}) {
      for (const bool has_bias : {false, true}) {
        SCOPED_TRACE(::testing::Message() << "m " << m << " n " << shape.n << " k " << shape.k);
        const DeviceArray<BFloat16> product(m * shape.n);
        const DeviceArray<BFloat16> want(m * cols);
        const DeviceArray<BFloat16> got(m * cols);
        GemmCudaParams p = problem.Params(0, m);
        if (has_bias) p.bias = problem.bias.data();
        p.y = product.data();
        ASSERT_EQ(GemvCuda(p, stream()), KernelStatus::kOk);
        ASSERT_EQ(SiluMulCuda({.gate = product.data(),
                               .up = product.data() + cols,
                               .gate_stride = shape.n,
                               .up_stride = shape.n,
                               .num_rows = m,
                               .cols = cols,
                               .out = want.data()},
                              stream()),
                  KernelStatus::kOk);
        p.y = got.data();
        ASSERT_EQ(GatedGemvCuda(p, stream()), KernelStatus::kOk);
        Sync();
        EXPECT_TRUE(longhaul::testing::SameBits(ToFloat(got.Download()), ToFloat(want.Download())));
      }
    }
  }
}

TEST(GatedGemvSizes, AreRefusedUnlessHalvesAreWholeVectorsAndNothingIsAdded) {
  alignas(16) BFloat16 memory[64];
  alignas(16) float floats[8];
  const GemmCudaParams good = {
      .x = memory, .weight = memory, .m = 0, .n = 16, .k = 8, .y = memory + 32};
  EXPECT_EQ(GatedGemvCuda(good, {}), KernelStatus::kOk);
  const auto refused = [&good](auto change) {
    GemmCudaParams bad = good;
    change(bad);
    return GatedGemvCuda(bad, {}) == KernelStatus::kInvalidArgument;
  };
  EXPECT_TRUE(refused([](GemmCudaParams& p) { p.n = 24; }));
  EXPECT_TRUE(refused([](GemmCudaParams& p) { p.m = 3; }));
  EXPECT_TRUE(refused([](GemmCudaParams& p) { p.adds = true; }));
  EXPECT_TRUE(refused([](GemmCudaParams& p) { p.y += 1; }));
  EXPECT_TRUE(refused([&floats](GemmCudaParams& p) {
    p.y = nullptr;
    p.y_fp32 = floats;
  }));
}

TEST_F(GemmCudaTest, TheSameCallGivesTheSameBitsInAnyProcess) {
  std::mt19937_64 random = FreshRandom();
  const Shape shape = k7bShapes[1];
  const Problem problem = Problem::Quick(random, 300, shape);
  for (const int64_t m : {1, 2, 3, 31, 64, 127, 300}) {
    std::vector<BFloat16> first;
    for (int process = 0; process < 3; ++process) {
      const std::unique_ptr<GemmCuda> fresh = GemmCuda::Create();
      ASSERT_NE(fresh, nullptr);
      const DeviceArray<BFloat16> y(m * shape.n);
      GemmCudaParams p = problem.Params(0, m);
      p.y = y.data();
      ASSERT_EQ(fresh->Run(p, stream()), KernelStatus::kOk);
      Sync();
      const std::vector<BFloat16> got = y.Download();
      if (process == 0) first = got;
      EXPECT_EQ(std::memcmp(got.data(), first.data(), got.size() * sizeof(BFloat16)), 0)
          << "m " << m;
    }
  }
}

TEST_F(GemmCudaTest, RunsInACudaGraphOncePrepared) {
  std::mt19937_64 random = FreshRandom();
  const Shape shape = k7bShapes[0];
  constexpr int64_t kRows = 13;
  const Problem problem = Problem::Quick(random, kRows, shape);
  const DeviceArray<BFloat16> eager(kRows * shape.n);
  DeviceArray<BFloat16> replayed(kRows * shape.n);
  GemmCudaParams p = problem.Params(0, kRows);
  p.bias = problem.bias.data();
  p.y = eager.data();
  ASSERT_EQ(gemm_->Prepare(p), KernelStatus::kOk);
  ASSERT_EQ(Run(p), KernelStatus::kOk);
  Sync();
  const auto cuda_stream = static_cast<cudaStream_t>(stream().handle);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t ready = nullptr;
  CheckCuda(cudaStreamBeginCapture(cuda_stream, cudaStreamCaptureModeThreadLocal), "capture");
  p.y = replayed.data();
  EXPECT_EQ(Run(p), KernelStatus::kOk);
  CheckCuda(cudaStreamEndCapture(cuda_stream, &graph), "end of capture");
  CheckCuda(cudaGraphInstantiate(&ready, graph, 0), "cudaGraphInstantiate");
  for (int i = 0; i < 2; ++i) {
    replayed.Poison();
    CheckCuda(cudaGraphLaunch(ready, cuda_stream), "cudaGraphLaunch");
    Sync();
    const std::vector<BFloat16> got = replayed.Download();
    const std::vector<BFloat16> want = eager.Download();
    EXPECT_EQ(std::memcmp(got.data(), want.data(), got.size() * sizeof(BFloat16)), 0);
  }
  CheckCuda(cudaGraphExecDestroy(ready), "cudaGraphExecDestroy");
  CheckCuda(cudaGraphDestroy(graph), "cudaGraphDestroy");
}

TEST_F(GemmCudaTest, RefusesWhatIsOutsideTheContract) {
  std::mt19937_64 random = FreshRandom();
  const Problem problem = Problem::Quick(random, 2, {16, 16});
  const DeviceArray<BFloat16> y(32);
  const DeviceArray<float> y_fp32(32);
  GemmCudaParams good = problem.Params(0, 2);
  good.y = y.data();
  ASSERT_EQ(Run(good), KernelStatus::kOk);
  const auto status = [&](auto spoil) {
    GemmCudaParams p = good;
    spoil(p);
    return Run(p);
  };
  EXPECT_EQ(status([](auto& p) { p.m = -1; }), KernelStatus::kInvalidArgument);
  EXPECT_EQ(status([](auto& p) { p.m = 0; }), KernelStatus::kOk);
  EXPECT_EQ(status([](auto& p) { p.n = 12; }), KernelStatus::kInvalidArgument);
  EXPECT_EQ(status([](auto& p) { p.k = 4; }), KernelStatus::kInvalidArgument);
  EXPECT_EQ(status([](auto& p) { p.y = nullptr; }), KernelStatus::kInvalidArgument);
  EXPECT_EQ(status([](auto& p) { p.x = nullptr; }), KernelStatus::kInvalidArgument);
  EXPECT_EQ(status([](auto& p) { p.x += 1; }), KernelStatus::kInvalidArgument);
  EXPECT_EQ(status([&](auto& p) { p.y_fp32 = y_fp32.data(); }), KernelStatus::kInvalidArgument);
  EXPECT_EQ(status([&](auto& p) {
              p.y = nullptr;
              p.y_fp32 = y_fp32.data();
              p.bias = problem.bias.data();
            }),
            KernelStatus::kUnimplemented);
  EXPECT_EQ(status([&](auto& p) {
              p.adds = true;
              p.bias = problem.bias.data();
            }),
            KernelStatus::kUnimplemented);
}

}  // namespace
}  // namespace longhaul::kernels
