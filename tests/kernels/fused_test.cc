#include <vector>

#include "kernels/fused/add.h"
#include "kernels/fused/embedding.h"
#include "kernels/fused/rms_norm.h"
#include "kernels/fused/silu_mul.h"
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

constexpr int64_t kRowCounts[] = {1, 7, 8, 15, 16, 17, 255, 256, 257};

TEST(Add, EqualsReference) {
  std::mt19937_64 random = FreshRandom();
  for (const int64_t size : {0, 1, 7, 16, 17, 32767, 32768, 32769}) {
    const std::vector<float> y = Normal(random, size);
    std::vector<float> x = Normal(random, size);
    std::vector<float> want = x;
    ASSERT_EQ(AddRef({.x = want.data(), .y = y.data(), .size = size}), KernelStatus::kOk);
    ThreadParallel threads(3);
    ASSERT_EQ(AddCpu({.x = x.data(), .y = y.data(), .size = size}, threads), KernelStatus::kOk);
    EXPECT_TRUE(Near(x, want, longhaul::testing::kAddTolerance)) << size;
  }
}

TEST(Embedding, GathersRowsOfTheTable) {
  std::mt19937_64 random = FreshRandom();
  for (const int64_t rows : kRowCounts) {
    const std::vector<float> table = Normal(random, int64_t{50} * 33);
    std::vector<int32_t> ids(rows);
    for (int32_t& id : ids) id = static_cast<int32_t>(Uniform(random, 0, 49));
    ids.front() = 0;
    ids.back() = 49;
    std::vector<float> out = Poisoned(rows * 33);
    std::vector<float> want = Poisoned(rows * 33);
    EmbeddingParams<float> params = {.table = table.data(),
                                     .vocab_size = 50,
                                     .hidden = 33,
                                     .ids = ids.data(),
                                     .num_rows = rows,
                                     .out = want.data()};
    ASSERT_EQ(EmbeddingRef(params), KernelStatus::kOk);
    params.out = out.data();
    ThreadParallel threads(3);
    ASSERT_EQ(EmbeddingCpu(params, threads), KernelStatus::kOk);
    EXPECT_TRUE(SameBits(out, want)) << rows;
  }
}

TEST(Embedding, RefusesIdsOutsideTheTableAndWritesNothing) {
  const std::vector<float> table(6, 1.0f);
  SerialParallel serial;
  for (const int32_t bad : {-1, 3}) {
    const int32_t ids[] = {0, bad};
    std::vector<float> out(4, 5.0f);
    EXPECT_EQ(EmbeddingCpu({.table = table.data(),
                            .vocab_size = 3,
                            .hidden = 2,
                            .ids = ids,
                            .num_rows = 2,
                            .out = out.data()},
                           serial),
              KernelStatus::kInvalidArgument);
    EXPECT_EQ(out, std::vector<float>(4, 5.0f));
  }
}

struct NormCase {
  std::vector<float> x, weight, out;
  RmsNormParams<float> Params() {
    const int32_t hidden = static_cast<int32_t>(weight.size());
    return {.x = x.data(),
            .weight = weight.data(),
            .num_rows = static_cast<int64_t>(x.size()) / hidden,
            .hidden = hidden,
            .eps = 1e-6f,
            .out = out.data()};
  }
};

NormCase MakeNormCase(std::mt19937_64& random, int64_t rows, int64_t hidden) {
  return {Normal(random, rows * hidden, 3), Normal(random, hidden), Poisoned(rows * hidden)};
}

TEST(RmsNorm, EqualsReference) {
  std::mt19937_64 random = FreshRandom();
  for (const int64_t rows : kRowCounts) {
    for (const int64_t hidden : {1, 15, 16, 17, 256, 1000}) {
      SCOPED_TRACE(::testing::Message() << rows << " x " << hidden);
      NormCase got = MakeNormCase(random, rows, hidden);
      NormCase want = got;
      ASSERT_EQ(RmsNormRef(want.Params()), KernelStatus::kOk);
      ThreadParallel threads(2);
      ASSERT_EQ(RmsNormCpu(got.Params(), threads), KernelStatus::kOk);
      EXPECT_TRUE(Near(got.out, want.out, longhaul::testing::kRmsNormTolerance));
      RmsNormParams<float> in_place = got.Params();
      in_place.out = got.x.data();
      ASSERT_EQ(RmsNormCpu(in_place, threads), KernelStatus::kOk);
      EXPECT_TRUE(SameBits(got.x, got.out));
    }
  }
}

TEST(RmsNorm, ARowHasTheSameBitsAloneAndOnAnyThreads) {
  std::mt19937_64 random = FreshRandom();
  NormCase whole = MakeNormCase(random, 70, 257);
  const NormCase fresh = whole;
  ThreadParallel threads(3);
  ASSERT_EQ(RmsNormCpu(whole.Params(), threads), KernelStatus::kOk);
  for (int64_t row = 0; row < 70; ++row) {
    NormCase alone = fresh;
    RmsNormParams<float> params = alone.Params();
    params.x += row * 257;
    params.num_rows = 1;
    SerialParallel serial;
    ASSERT_EQ(RmsNormCpu(params, serial), KernelStatus::kOk);
    EXPECT_TRUE(SameBits(params.out, &whole.out[row * 257], 257)) << row;
  }
}

TEST(SiluMul, EqualsReferenceForHalvesOfOneTensor) {
  std::mt19937_64 random = FreshRandom();
  for (const int64_t rows : {1, 7, 16, 17}) {
    for (const int64_t cols : {1, 7, 16, 255, 256, 257}) {
      SCOPED_TRACE(::testing::Message() << rows << " x " << cols);
      std::vector<float> gate_up = Normal(random, rows * 2 * cols, 5);
      gate_up[0] = 0;
      std::vector<float> out = Poisoned(rows * cols);
      std::vector<float> want = Poisoned(rows * cols);
      SiluMulParams<float> params = {.gate = gate_up.data(),
                                     .up = gate_up.data() + cols,
                                     .gate_stride = 2 * cols,
                                     .up_stride = 2 * cols,
                                     .num_rows = rows,
                                     .cols = cols,
                                     .out = want.data()};
      ASSERT_EQ(SiluMulRef(params), KernelStatus::kOk);
      params.out = out.data();
      ThreadParallel threads(2);
      ASSERT_EQ(SiluMulCpu(params, threads), KernelStatus::kOk);
      EXPECT_TRUE(Near(out, want, longhaul::testing::kSiluMulTolerance));
    }
  }
}

TEST(SiluMul, HoldsAtTheEndsAndShowsNan) {
  const std::vector<float> gate = {-1e30f, -100, -88,   -87,           87,
                                   88,     100,  1e30f, std::nanf(""), -0.0f};
  const std::vector<float> up(gate.size(), 1.0f);
  std::vector<float> out = Poisoned(gate.size());
  SerialParallel serial;
  ASSERT_EQ(SiluMulCpu({.gate = gate.data(),
                        .up = up.data(),
                        .gate_stride = 10,
                        .up_stride = 10,
                        .num_rows = 1,
                        .cols = 10,
                        .out = out.data()},
                       serial),
            KernelStatus::kOk);
  for (int i = 0; i < 4; ++i) EXPECT_NEAR(out[i], 0, 1e-30) << i;
  for (int i = 4; i < 8; ++i) EXPECT_EQ(out[i], gate[i]) << i;
  EXPECT_TRUE(std::isnan(out[8]));
  EXPECT_EQ(out[9], 0);
}

// Element by element whatever its place in a vector or its row's length.
TEST(SiluMul, AnElementHasTheSameBitsAnywhere) {
  std::mt19937_64 random = FreshRandom();
  const std::vector<float> gate = Normal(random, 203, 8);
  const std::vector<float> up = Normal(random, 203);
  SerialParallel serial;
  const auto run = [&](int64_t begin, int64_t count) {
    std::vector<float> out = Poisoned(count);
    EXPECT_EQ(SiluMulCpu({.gate = &gate[begin],
                          .up = &up[begin],
                          .gate_stride = count,
                          .up_stride = count,
                          .num_rows = 1,
                          .cols = count,
                          .out = out.data()},
                         serial),
              KernelStatus::kOk);
    return out;
  };
  const std::vector<float> whole = run(0, 203);
  for (int64_t i = 0; i < 203; ++i) EXPECT_TRUE(SameBits(run(i, 1).data(), &whole[i], 1)) << i;
}

}  // namespace
}  // namespace longhaul::kernels
