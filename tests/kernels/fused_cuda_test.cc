#include <cmath>
#include <limits>
#include <vector>

#include "kernels/fused/add.h"
#include "kernels/fused/embedding.h"
#include "kernels/fused/rms_norm.h"
#include "kernels/fused/silu_mul.h"
#include "tests/testing/cuda_testing.h"

namespace longhaul::kernels {
namespace {

using longhaul::testing::DeviceArray;
using longhaul::testing::FreshRandom;
using longhaul::testing::Near;
using longhaul::testing::Normal;
using longhaul::testing::NormalBFloat16;
using longhaul::testing::Poisoned;
using longhaul::testing::SameBits;
using longhaul::testing::ToBFloat16;
using longhaul::testing::ToFloat;
using longhaul::testing::Uniform;

// Widths around a vector, a warp's part of a row and the limit, and those of the models.
constexpr int32_t kWidths[] = {8, 16, 256, 504, 512, 520, 3584, 5120, 8184, 8192};

using AddOnDevice = longhaul::testing::CudaTest;
using EmbeddingOnDevice = longhaul::testing::CudaTest;
using RmsNormOnDevice = longhaul::testing::CudaTest;
using SiluMulOnDevice = longhaul::testing::CudaTest;

TEST_F(AddOnDevice, HasTheBitsOfTheRoundedSum) {
  std::mt19937_64 random = FreshRandom();
  for (const int64_t size : {0, 8, 16, 4088, 4096, 4104, 33 * 3584}) {
    std::vector<float> want = NormalBFloat16(random, size);
    const std::vector<float> added = NormalBFloat16(random, size);
    DeviceArray<BFloat16> x(ToBFloat16(want));
    const DeviceArray<BFloat16> y(ToBFloat16(added));
    ASSERT_EQ(AddCuda({.x = x.data(), .y = y.data(), .size = size}, stream()), KernelStatus::kOk);
    ASSERT_EQ(AddRef({.x = want.data(), .y = added.data(), .size = size}), KernelStatus::kOk);
    EXPECT_TRUE(SameBits(ToFloat(x.Download()), ToFloat(ToBFloat16(want)))) << size;
  }
}

TEST(AddCudaSizes, AreRefusedUnlessWholeAlignedVectors) {
  alignas(16) BFloat16 x[24];
  alignas(16) BFloat16 y[24];
  const AddParams<BFloat16> bad[] = {{x, y, -8},    {x, y, 7},       {x + 1, y, 8},
                                     {x, y + 1, 8}, {nullptr, y, 8}, {x, nullptr, 8}};
  for (const auto& p : bad) EXPECT_EQ(AddCuda(p, {}), KernelStatus::kInvalidArgument) << p.size;
  EXPECT_EQ(AddCuda({x, y, 0}, {}), KernelStatus::kOk);
}

std::vector<BFloat16> Embed(const std::vector<BFloat16>& table, int32_t vocab_size,
                            const std::vector<int32_t>& ids, DeviceStream stream) {
  const int32_t hidden = static_cast<int32_t>(table.size()) / vocab_size;
  const DeviceArray<BFloat16> device_table(table);
  const DeviceArray<int32_t> device_ids(ids);
  const DeviceArray<BFloat16> out(static_cast<int64_t>(ids.size()) * hidden);
  EXPECT_EQ(EmbeddingCuda({.table = device_table.data(),
                           .vocab_size = vocab_size,
                           .hidden = hidden,
                           .ids = device_ids.data(),
                           .num_rows = static_cast<int64_t>(ids.size()),
                           .out = out.data()},
                          stream),
            KernelStatus::kOk);
  return out.Download();
}

TEST_F(EmbeddingOnDevice, GathersRowsOfTheTable) {
  std::mt19937_64 random = FreshRandom();
  constexpr int32_t kVocab = 50;
  for (const int32_t hidden : kWidths) {
    for (const int64_t rows : {1, 2, 33}) {
      const std::vector<float> table = NormalBFloat16(random, int64_t{kVocab} * hidden);
      std::vector<int32_t> ids(rows);
      for (int32_t& id : ids) id = static_cast<int32_t>(Uniform(random, 0, kVocab - 1));
      ids.front() = 0;
      ids.back() = kVocab - 1;
      std::vector<float> want = Poisoned(rows * hidden);
      ASSERT_EQ(EmbeddingRef({.table = table.data(),
                              .vocab_size = kVocab,
                              .hidden = hidden,
                              .ids = ids.data(),
                              .num_rows = rows,
                              .out = want.data()}),
                KernelStatus::kOk);
      EXPECT_TRUE(SameBits(ToFloat(Embed(ToBFloat16(table), kVocab, ids, stream())), want))
          << rows << " x " << hidden;
    }
  }
}

TEST_F(EmbeddingOnDevice, AnIdOutsideTheTableMakesItsRowNanAndNoOther) {
  constexpr int32_t kHidden = 520;
  const std::vector<BFloat16> table = ToBFloat16(std::vector<float>(size_t{3} * kHidden, 1.0f));
  for (const int32_t bad :
       {-1, 3, std::numeric_limits<int32_t>::min(), std::numeric_limits<int32_t>::max()}) {
    const std::vector<float> out = ToFloat(Embed(table, 3, {2, bad, 0}, stream()));
    for (int32_t i = 0; i < kHidden; ++i) {
      ASSERT_EQ(out[i], 1.0f) << bad << " " << i;
      ASSERT_TRUE(std::isnan(out[kHidden + i])) << bad << " " << i;
      ASSERT_EQ(out[2 * kHidden + i], 1.0f) << bad << " " << i;
    }
  }
}

TEST(EmbeddingCudaSizes, AreRefusedUnlessRowsAreWholeAlignedVectors) {
  alignas(16) BFloat16 memory[24];
  const int32_t id = 0;
  const EmbeddingParams<BFloat16> good = {memory, 1, 8, &id, 0, memory + 8};
  EXPECT_EQ(EmbeddingCuda(good, {}), KernelStatus::kOk);
  for (const int32_t hidden : {-8, 0, 7, 12, 8200}) {
    EmbeddingParams<BFloat16> bad = good;
    bad.hidden = hidden;
    EXPECT_EQ(EmbeddingCuda(bad, {}), KernelStatus::kInvalidArgument) << hidden;
  }
  EmbeddingParams<BFloat16> bad = good;
  bad.table += 1;
  EXPECT_EQ(EmbeddingCuda(bad, {}), KernelStatus::kInvalidArgument);
  bad = good;
  bad.vocab_size = 0;
  EXPECT_EQ(EmbeddingCuda(bad, {}), KernelStatus::kInvalidArgument);
}

struct NormCase {
  NormCase(std::mt19937_64& random, int64_t rows, int32_t width)
      : hidden(width),
        x(ToBFloat16(Normal(random, rows * width, 3))),
        weight(Normal(random, width)) {}

  // Of rows [begin, begin + rows).
  std::vector<float> Run(int64_t begin, int64_t rows, DeviceStream stream) const {
    const DeviceArray<BFloat16> device_x(
        std::vector<BFloat16>(x.begin() + begin * hidden, x.begin() + (begin + rows) * hidden));
    const DeviceArray<float> device_weight(weight);
    const DeviceArray<BFloat16> out(rows * hidden);
    EXPECT_EQ(RmsNormCuda({.x = device_x.data(),
                           .weight = device_weight.data(),
                           .num_rows = rows,
                           .hidden = hidden,
                           .eps = 1e-6f,
                           .out = out.data()},
                          stream),
              KernelStatus::kOk);
    return ToFloat(out.Download());
  }

  const int32_t hidden;
  const std::vector<BFloat16> x;
  const std::vector<float> weight;
};

TEST_F(RmsNormOnDevice, EqualsReference) {
  std::mt19937_64 random = FreshRandom();
  for (const int32_t hidden : kWidths) {
    for (const int64_t rows : {1, 2, 33}) {
      SCOPED_TRACE(::testing::Message() << rows << " x " << hidden);
      const NormCase c(random, rows, hidden);
      const std::vector<float> x = ToFloat(c.x);
      std::vector<float> want = Poisoned(rows * hidden);
      ASSERT_EQ(RmsNormRef({.x = x.data(),
                            .weight = c.weight.data(),
                            .num_rows = rows,
                            .hidden = hidden,
                            .eps = 1e-6f,
                            .out = want.data()}),
                KernelStatus::kOk);
      EXPECT_TRUE(Near(c.Run(0, rows, stream()), want, longhaul::testing::kBFloat16Tolerance));
    }
  }
}

TEST_F(RmsNormOnDevice, ARowHasTheSameBitsAlone) {
  std::mt19937_64 random = FreshRandom();
  for (const int32_t hidden : {256, 3584}) {
    const NormCase c(random, 40, hidden);
    const std::vector<float> whole = c.Run(0, 40, stream());
    for (int64_t row = 0; row < 40; ++row) {
      EXPECT_TRUE(SameBits(c.Run(row, 1, stream()).data(), &whole[row * hidden], hidden)) << row;
    }
  }
}

TEST_F(RmsNormOnDevice, MayWriteOverItsInput) {
  std::mt19937_64 random = FreshRandom();
  const NormCase c(random, 5, 520);
  const DeviceArray<BFloat16> x(c.x);
  const DeviceArray<float> weight(c.weight);
  ASSERT_EQ(RmsNormCuda({.x = x.data(),
                         .weight = weight.data(),
                         .num_rows = 5,
                         .hidden = 520,
                         .eps = 1e-6f,
                         .out = x.data()},
                        stream()),
            KernelStatus::kOk);
  EXPECT_TRUE(SameBits(ToFloat(x.Download()), c.Run(0, 5, stream())));
}

TEST(RmsNormCudaSizes, AreRefusedUnlessRowsAreWholeAlignedVectors) {
  alignas(16) BFloat16 memory[64];
  alignas(16) float weight[16];
  const RmsNormParams<BFloat16> good = {memory, weight, 0, 8, 1e-6f, memory + 32};
  EXPECT_EQ(RmsNormCuda(good, {}), KernelStatus::kOk);
  for (const int32_t hidden : {-8, 0, 7, 12, 8200}) {
    RmsNormParams<BFloat16> bad = good;
    bad.hidden = hidden;
    EXPECT_EQ(RmsNormCuda(bad, {}), KernelStatus::kInvalidArgument) << hidden;
  }
  const auto refused = [&good](auto change) {
    RmsNormParams<BFloat16> bad = good;
    change(bad);
    return RmsNormCuda(bad, {}) == KernelStatus::kInvalidArgument;
  };
  EXPECT_TRUE(refused([](RmsNormParams<BFloat16>& p) { p.x += 1; }));
  EXPECT_TRUE(refused([](RmsNormParams<BFloat16>& p) { p.weight += 1; }));
  EXPECT_TRUE(refused([](RmsNormParams<BFloat16>& p) { p.out += 1; }));
  EXPECT_TRUE(refused([](RmsNormParams<BFloat16>& p) { p.eps = 0; }));
  EXPECT_TRUE(refused([](RmsNormParams<BFloat16>& p) { p.num_rows = -1; }));
}

// Gate and up are the halves of each row of `gate_up`.
std::vector<float> SiluMul(const std::vector<float>& gate_up, int64_t rows, DeviceStream stream) {
  const int64_t cols = static_cast<int64_t>(gate_up.size()) / rows / 2;
  const DeviceArray<BFloat16> in(ToBFloat16(gate_up));
  const DeviceArray<BFloat16> out(rows * cols);
  EXPECT_EQ(SiluMulCuda({.gate = in.data(),
                         .up = in.data() + cols,
                         .gate_stride = 2 * cols,
                         .up_stride = 2 * cols,
                         .num_rows = rows,
                         .cols = cols,
                         .out = out.data()},
                        stream),
            KernelStatus::kOk);
  return ToFloat(out.Download());
}

std::vector<float> SiluMulExpected(const std::vector<float>& gate_up, int64_t rows) {
  const int64_t cols = static_cast<int64_t>(gate_up.size()) / rows / 2;
  std::vector<float> out = Poisoned(rows * cols);
  EXPECT_EQ(SiluMulRef({.gate = gate_up.data(),
                        .up = gate_up.data() + cols,
                        .gate_stride = 2 * cols,
                        .up_stride = 2 * cols,
                        .num_rows = rows,
                        .cols = cols,
                        .out = out.data()}),
            KernelStatus::kOk);
  return out;
}

TEST_F(SiluMulOnDevice, EqualsReferenceForHalvesOfOneTensor) {
  std::mt19937_64 random = FreshRandom();
  for (const int64_t rows : {1, 3, 17}) {
    for (const int64_t cols : {8, 16, 2040, 2048, 2056, 4088, 4096, 4104, 18944}) {
      const std::vector<float> gate_up = NormalBFloat16(random, rows * 2 * cols, 5);
      EXPECT_TRUE(Near(SiluMul(gate_up, rows, stream()), SiluMulExpected(gate_up, rows),
                       longhaul::testing::kBFloat16Tolerance))
          << rows << " x " << cols;
    }
  }
}

TEST_F(SiluMulOnDevice, EqualsReferenceForEveryFiniteGate) {
  std::vector<float> gate_up(131072, 1.0f);
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float gate = BFloat16ToFloat(static_cast<uint16_t>(bits));
    gate_up[bits] = std::isfinite(gate) ? gate : 0;
  }
  EXPECT_TRUE(Near(SiluMul(gate_up, 1, stream()), SiluMulExpected(gate_up, 1),
                   longhaul::testing::kBFloat16Tolerance));
}

TEST_F(SiluMulOnDevice, ShowsNanAndInfinity) {
  std::vector<float> gate_up(16, 1.0f);
  gate_up[1] = std::nanf("");
  gate_up[2] = std::numeric_limits<float>::infinity();
  gate_up[8 + 3] = std::nanf("");
  const std::vector<float> out = SiluMul(gate_up, 1, stream());
  EXPECT_NEAR(out[0], 0.7310586, 0.003);
  EXPECT_TRUE(std::isnan(out[1]));
  EXPECT_EQ(out[2], std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnan(out[3]));
}

// Element by element whatever its place in a row or the number of rows.
TEST_F(SiluMulOnDevice, AnElementHasTheSameBitsAnywhere) {
  std::mt19937_64 random = FreshRandom();
  constexpr int64_t kCols = 4104;
  const std::vector<float> gate = NormalBFloat16(random, kCols, 8);
  const std::vector<float> up = NormalBFloat16(random, kCols);
  std::vector<float> one_row = gate;
  one_row.insert(one_row.end(), up.begin(), up.end());
  std::vector<float> narrow_rows;
  for (int64_t i = 0; i < kCols; i += 8) {
    narrow_rows.insert(narrow_rows.end(), gate.begin() + i, gate.begin() + i + 8);
    narrow_rows.insert(narrow_rows.end(), up.begin() + i, up.begin() + i + 8);
  }
  EXPECT_TRUE(SameBits(SiluMul(one_row, 1, stream()), SiluMul(narrow_rows, kCols / 8, stream())));
}

TEST(SiluMulCudaSizes, AreRefusedUnlessRowsAreWholeAlignedVectors) {
  alignas(16) BFloat16 memory[64];
  const SiluMulParams<BFloat16> good = {memory, memory + 8, 16, 16, 0, 8, memory + 32};
  EXPECT_EQ(SiluMulCuda(good, {}), KernelStatus::kOk);
  const auto refused = [&good](auto change) {
    SiluMulParams<BFloat16> bad = good;
    change(bad);
    return SiluMulCuda(bad, {}) == KernelStatus::kInvalidArgument;
  };
  EXPECT_TRUE(refused([](SiluMulParams<BFloat16>& p) { p.cols = 7; }));
  EXPECT_TRUE(refused([](SiluMulParams<BFloat16>& p) { p.cols = 24; }));
  EXPECT_TRUE(refused([](SiluMulParams<BFloat16>& p) { p.gate_stride = 17; }));
  EXPECT_TRUE(refused([](SiluMulParams<BFloat16>& p) { p.up_stride = 0; }));
  EXPECT_TRUE(refused([](SiluMulParams<BFloat16>& p) { p.up += 1; }));
  EXPECT_TRUE(refused([](SiluMulParams<BFloat16>& p) { p.out += 1; }));
  EXPECT_TRUE(refused([](SiluMulParams<BFloat16>& p) { p.num_rows = -1; }));
}

}  // namespace
}  // namespace longhaul::kernels
