#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <vector>

#include "kernels/rope/rope_qkv.h"
#include "kernels/rope/rope_qkv_paged.h"
#include "kernels/rope/rope_table.h"
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

using RopeTableOnDevice = longhaul::testing::CudaTest;
using RopeQkvPagedOnDevice = longhaul::testing::CudaTest;

TEST_F(RopeTableOnDevice, EqualsReferenceForEachVariantUpToAMillion) {
  std::mt19937_64 random = FreshRandom();
  for (const RopeVariant variant : {RopeVariant::kIntra, RopeVariant::kSucc, RopeVariant::kInter}) {
    for (const int64_t chunk_len : {int64_t{0}, int64_t{512}, int64_t{253952}}) {
      if (chunk_len == 0 && variant != RopeVariant::kIntra) continue;
      for (const int32_t head_dim : {2, 6, 62, 64, 66, 128}) {
        std::vector<int64_t> positions = {0, 1, 511, 512, 513, 639, 640, 641, 1023, 1024, 1025};
        const int64_t more = Uniform(random, 50, 53);  // warps of the last block with and without
        for (int64_t i = 0; i < more; ++i) positions.push_back(Uniform(random, 0, 1010000));
        const int64_t rows = static_cast<int64_t>(positions.size());
        std::vector<float> want_cos = Poisoned(rows * head_dim / 2);
        std::vector<float> want_sin = want_cos;
        RopeTableParams params = {.positions = positions.data(),
                                  .num_rows = rows,
                                  .head_dim = head_dim,
                                  .theta = 1e7,
                                  .variant = variant,
                                  .chunk_len = chunk_len,
                                  .chunk_size = chunk_len + 128,
                                  .cos = want_cos.data(),
                                  .sin = want_sin.data()};
        ASSERT_EQ(RopeTableRef(params), KernelStatus::kOk);
        const DeviceArray<int64_t> device_positions(positions);
        const DeviceArray<float> cos(rows * head_dim / 2);
        const DeviceArray<float> sin(rows * head_dim / 2);
        params.positions = device_positions.data();
        params.cos = cos.data();
        params.sin = sin.data();
        ASSERT_EQ(RopeTableCuda(params, stream()), KernelStatus::kOk);
        EXPECT_TRUE(Near(cos.Download(), want_cos, longhaul::testing::kRopeTableTolerance));
        EXPECT_TRUE(Near(sin.Download(), want_sin, longhaul::testing::kRopeTableTolerance));
      }
    }
  }
}

TEST(RopeTableCudaSizes, AreRefusedAsByTheCpuTwin) {
  const RopeTableParams good = {.head_dim = 64, .theta = 1e4};
  EXPECT_EQ(RopeTableCuda(good, {}), KernelStatus::kOk);
  const auto refused = [&good](auto change) {
    RopeTableParams bad = good;
    change(bad);
    return RopeTableCuda(bad, {}) == KernelStatus::kInvalidArgument;
  };
  EXPECT_TRUE(refused([](RopeTableParams& p) { p.variant = RopeVariant::kSucc; }));
  EXPECT_TRUE(refused([](RopeTableParams& p) { p.head_dim = 63; }));
  EXPECT_TRUE(refused([](RopeTableParams& p) { p.head_dim = 1026; }));
  EXPECT_TRUE(refused([](RopeTableParams& p) { p.theta = 0; }));
  EXPECT_TRUE(refused([](RopeTableParams& p) { p.num_rows = 1; }));  // without memory
  EXPECT_TRUE(refused([](RopeTableParams& p) {
    p.chunk_len = 512;
    p.chunk_size = 511;
  }));
}

struct Heads {
  int32_t q, kv, dim;
};

// What a call leaves behind: q_intra, q_succ, q_inter, and every byte of the cache.
struct QkvResult {
  std::vector<BFloat16> q[3];
  std::vector<uint8_t> cache;
};

// Rows of some sequences that share a cache, with tables of arbitrary angles: that they are the
// right ones is RopeTable's part.
class QkvCase {
 public:
  static constexpr int32_t kBlocks = 4;

  // Each block has tokens of one sequence, which end at a random place of it.
  QkvCase(std::mt19937_64& random, const Heads& heads, int64_t num_rows)
      : heads_(heads),
        layout_{.num_kv_heads = heads.kv, .head_dim = heads.dim, .dtype = KvDtype::kBFloat16},
        num_rows_(num_rows),
        stride_(layout_.BlockBytes() + 64),
        qkv_(NormalBFloat16(random, num_rows * row_heads() * heads.dim)),
        scale_(Normal(random, num_rows)),
        slot_(num_rows),
        num_empty_(num_rows) {
    const int64_t half = heads.dim / 2;
    for (auto& table : tables_) {
      table.resize(2 * num_rows * half);
      for (int64_t i = 0; i < num_rows * half; ++i) {
        const double angle = std::uniform_real_distribution<double>(0, 7)(random);
        table[i] = static_cast<float>(std::cos(angle));
        table[num_rows * half + i] = static_cast<float>(std::sin(angle));
      }
    }
    int64_t row = 0;
    for (int64_t block = 0; row < num_rows; ++block) {
      const int64_t rows = std::min<int64_t>((num_rows + kBlocks - 1) / kBlocks, num_rows - row);
      const int64_t first = Uniform(random, 0, kBlockTokens - rows);
      for (int64_t i = 0; i < rows; ++i, ++row) slot_[row] = block * kBlockTokens + first + i;
      num_empty_[row - 1] = static_cast<int32_t>(127 - slot_[row - 1] % 128);
    }
  }

  const Heads& heads() const { return heads_; }
  int32_t row_heads() const { return heads_.q + 2 * heads_.kv; }
  int64_t q_size() const { return num_rows_ * heads_.q * heads_.dim; }
  void set_num_empty(int64_t row, int32_t count) { num_empty_[row] = count; }

  // By `launch`, once for all rows or (part = 1) row by row.
  QkvResult Run(int64_t part, DeviceStream stream) const {
    const DeviceArray<BFloat16> qkv(ToBFloat16(qkv_));
    const DeviceArray<float> scale(scale_);
    const DeviceArray<float> tables[] = {DeviceArray<float>(tables_[0]),
                                         DeviceArray<float>(tables_[1]),
                                         DeviceArray<float>(tables_[2])};
    const DeviceArray<int64_t> slot(slot_);
    const DeviceArray<int32_t> num_empty(num_empty_);
    const DeviceArray<BFloat16> q[] = {DeviceArray<BFloat16>(q_size()),
                                       DeviceArray<BFloat16>(q_size()),
                                       DeviceArray<BFloat16>(q_size())};
    const DeviceArray<uint8_t> cache(kBlocks * stride_);
    const int64_t half = heads_.dim / 2;
    for (int64_t begin = 0; begin < num_rows_; begin += part) {
      const auto angles = [&](int table) {
        return RopeAngles{tables[table].data() + begin * half,
                          tables[table].data() + (num_rows_ + begin) * half};
      };
      const int64_t q_begin = begin * heads_.q * heads_.dim;
      EXPECT_EQ(RopeQkvPagedCuda({.qkv = qkv.data() + begin * row_heads() * heads_.dim,
                                  .query_scale = scale.data() + begin,
                                  .intra = angles(0),
                                  .succ = angles(1),
                                  .inter = angles(2),
                                  .slot = slot.data() + begin,
                                  .num_empty = num_empty.data() + begin,
                                  .q_intra = q[0].data() + q_begin,
                                  .q_succ = q[1].data() + q_begin,
                                  .q_inter = q[2].data() + q_begin,
                                  .kv_base = cache.data(),
                                  .num_rows = std::min(part, num_rows_ - begin),
                                  .block_stride_bytes = stride_,
                                  .num_q_heads = heads_.q,
                                  .layout = layout_},
                                 stream),
                KernelStatus::kOk);
    }
    return {{q[0].Download(), q[1].Download(), q[2].Download()}, cache.Download()};
  }

  struct Fp32 {
    std::vector<float> q[3];
    std::vector<float> k, v;  // [T, Hkv, D]
  };

  // By the reference or the CPU twin, in fp32, each row as a sequence's only one.
  Fp32 OnHost(const std::function<KernelStatus(const RopeQkvParams&)>& launch) const {
    const KvLayout layout = {.num_kv_heads = heads_.kv, .head_dim = heads_.dim};
    const int64_t half = heads_.dim / 2;
    Fp32 result = {{Poisoned(q_size()), Poisoned(q_size()), Poisoned(q_size())}, {}, {}};
    for (int64_t row = 0; row < num_rows_; ++row) {
      std::vector<float> block = Poisoned(layout.BlockBytes() / 4);
      const int32_t table = 0;
      const auto angles = [&](int i) {
        return RopeAngles{&tables_[i][row * half], &tables_[i][(num_rows_ + row) * half]};
      };
      const int64_t q_begin = row * heads_.q * heads_.dim;
      EXPECT_EQ(launch({.qkv = &qkv_[row * row_heads() * heads_.dim],
                        .num_rows = 1,
                        .position_begin = 0,
                        .num_q_heads = heads_.q,
                        .query_scale = &scale_[row],
                        .intra = angles(0),
                        .succ = angles(1),
                        .inter = angles(2),
                        .q_intra = &result.q[0][q_begin],
                        .q_succ = &result.q[1][q_begin],
                        .q_inter = &result.q[2][q_begin],
                        .kv = {.base = reinterpret_cast<uint8_t*>(block.data()),
                               .block_stride_bytes = layout.BlockBytes(),
                               .block_table = &table,
                               .num_blocks = 1,
                               .layout = layout}}),
                KernelStatus::kOk);
      for (int64_t i = 0; i < int64_t{heads_.kv} * heads_.dim; ++i) {
        result.k.push_back(block[i * kBlockTokens]);
        result.v.push_back(
            block[(heads_.kv + i / heads_.dim) * kBlockTokens * heads_.dim + i % heads_.dim]);
      }
    }
    return result;
  }

  // The cache after a call that wrote these K and V, rounded.
  std::vector<uint8_t> Cache(const Fp32& rows) const {
    std::vector<uint8_t> cache(kBlocks * stride_, 0xff);
    const int64_t row_bytes = int64_t{heads_.dim} * 2;
    for (int64_t row = 0; row < num_rows_; ++row) {
      const int64_t token = slot_[row] % kBlockTokens;
      uint8_t* block = &cache[slot_[row] / kBlockTokens * stride_];
      for (int64_t head = 0; head < heads_.kv; ++head) {
        uint8_t* k = block + (head * kBlockTokens + token) * row_bytes;
        uint8_t* v = block + ((heads_.kv + head) * kBlockTokens + token) * row_bytes;
        for (int64_t d = 0; d < heads_.dim; ++d) {
          const int64_t i = (row * heads_.kv + head) * heads_.dim + d;
          const uint16_t k_bits = FloatToBFloat16(rows.k[i]);
          const uint16_t v_bits = FloatToBFloat16(rows.v[i]);
          std::memcpy(k + 2 * d, &k_bits, 2);
          std::memcpy(v + 2 * d, &v_bits, 2);
        }
        const int64_t empty = std::min<int64_t>(num_empty_[row], 127 - token % 128);
        std::memset(v + row_bytes, 0, empty * row_bytes);
      }
    }
    return cache;
  }

 private:
  const Heads heads_;
  const KvLayout layout_;
  const int64_t num_rows_;
  const int64_t stride_;
  const std::vector<float> qkv_, scale_;
  std::vector<float> tables_[3];  // cosines, then sines
  std::vector<int64_t> slot_;
  std::vector<int32_t> num_empty_;
};

// The demo model, the 7B, the 14B, a group without a whole warp, and rows of more than one block.
constexpr Heads kHeads[] = {{4, 2, 64}, {28, 4, 128}, {40, 8, 128}, {1, 1, 64}, {64, 8, 128}};

TEST_F(RopeQkvPagedOnDevice, HasTheBitsOfTheCpuTwinRoundedAndTouchesNothingElse) {
  std::mt19937_64 random = FreshRandom();
  SerialParallel serial;
  for (const Heads& heads : kHeads) {
    for (const int64_t rows : {1, 3, 37}) {
      SCOPED_TRACE(::testing::Message() << rows << " rows of " << heads.q << ", " << heads.kv
                                        << " heads of " << heads.dim);
      const QkvCase c(random, heads, rows);
      const QkvResult got = c.Run(rows, stream());
      const QkvCase::Fp32 want =
          c.OnHost([&](const RopeQkvParams& p) { return RopeQkvCpu(p, serial); });
      for (int i = 0; i < 3; ++i) {
        EXPECT_TRUE(SameBits(ToFloat(got.q[i]), ToFloat(ToBFloat16(want.q[i])))) << i;
      }
      EXPECT_TRUE(got.cache == c.Cache(want));
    }
  }
}

TEST_F(RopeQkvPagedOnDevice, EqualsReference) {
  std::mt19937_64 random = FreshRandom();
  const QkvCase c(random, {28, 4, 128}, 19);
  const QkvResult got = c.Run(19, stream());
  const QkvCase::Fp32 want = c.OnHost([](const RopeQkvParams& p) { return RopeQkvRef(p); });
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(Near(ToFloat(got.q[i]), want.q[i], longhaul::testing::kRopeBFloat16Tolerance)) << i;
  }
}

TEST_F(RopeQkvPagedOnDevice, ARowHasTheSameBitsAlone) {
  std::mt19937_64 random = FreshRandom();
  const QkvCase c(random, {28, 4, 128}, 50);
  const QkvResult whole = c.Run(50, stream());
  const QkvResult alone = c.Run(1, stream());
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(SameBits(ToFloat(alone.q[i]), ToFloat(whole.q[i]))) << i;
  }
  EXPECT_TRUE(alone.cache == whole.cache);
}

TEST_F(RopeQkvPagedOnDevice, ClearsNothingPastTheTile) {
  std::mt19937_64 random = FreshRandom();
  SerialParallel serial;
  QkvCase c(random, {4, 2, 64}, 1);
  c.set_num_empty(0, 1000);
  EXPECT_TRUE(c.Run(1, stream()).cache ==
              c.Cache(c.OnHost([&](const RopeQkvParams& p) { return RopeQkvCpu(p, serial); })));
}

TEST_F(RopeQkvPagedOnDevice, WorksWithoutTheVariantsThatAreNotAskedFor) {
  const KvLayout layout = {.num_kv_heads = 1, .head_dim = 64, .dtype = KvDtype::kBFloat16};
  const DeviceArray<BFloat16> qkv(ToBFloat16(std::vector<float>(192, 1.0f)));
  const DeviceArray<float> scale(std::vector<float>{2});
  const DeviceArray<float> cos(std::vector<float>(32, 0.0f));
  const DeviceArray<float> sin(std::vector<float>(32, 1.0f));
  const DeviceArray<int64_t> slot(std::vector<int64_t>{0});
  const DeviceArray<int32_t> num_empty(std::vector<int32_t>{0});
  const DeviceArray<BFloat16> q(64);
  const DeviceArray<uint8_t> cache(layout.BlockBytes());
  ASSERT_EQ(RopeQkvPagedCuda({.qkv = qkv.data(),
                              .query_scale = scale.data(),
                              .intra = {cos.data(), sin.data()},
                              .slot = slot.data(),
                              .num_empty = num_empty.data(),
                              .q_intra = q.data(),
                              .kv_base = cache.data(),
                              .num_rows = 1,
                              .block_stride_bytes = layout.BlockBytes(),
                              .num_q_heads = 1,
                              .layout = layout},
                             stream()),
            KernelStatus::kOk);
  // A quarter turn of (1, 1) is (-1, 1).
  const std::vector<float> rotated = ToFloat(q.Download());
  for (int i = 0; i < 32; ++i) {
    EXPECT_EQ(rotated[i], -2) << i;
    EXPECT_EQ(rotated[32 + i], 2) << i;
  }
}

TEST(RopeQkvPagedCudaSizes, AreRefusedOutsideTheContract) {
  alignas(16) BFloat16 memory[64];
  alignas(16) float table[64];
  const int64_t slot = 0;
  const int32_t num_empty = 0;
  const KvLayout layout = {.num_kv_heads = 2, .head_dim = 64, .dtype = KvDtype::kBFloat16};
  const RopeQkvPagedParams good = {.qkv = memory,
                                   .query_scale = table,
                                   .intra = {table, table},
                                   .slot = &slot,
                                   .num_empty = &num_empty,
                                   .q_intra = memory,
                                   .kv_base = reinterpret_cast<uint8_t*>(memory),
                                   .num_rows = 0,
                                   .block_stride_bytes = layout.BlockBytes(),
                                   .num_q_heads = 4,
                                   .layout = layout};
  EXPECT_EQ(RopeQkvPagedCuda(good, {}), KernelStatus::kOk);
  const auto status = [&good](auto change) {
    RopeQkvPagedParams bad = good;
    change(bad);
    return RopeQkvPagedCuda(bad, {});
  };
  using Params = RopeQkvPagedParams;
  constexpr KernelStatus kInvalid = KernelStatus::kInvalidArgument;
  EXPECT_EQ(status([](Params& p) { p.num_rows = -1; }), kInvalid);
  EXPECT_EQ(status([](Params& p) { p.num_q_heads = 3; }), kInvalid);
  EXPECT_EQ(status([](Params& p) { p.block_stride_bytes -= 16; }), kInvalid);
  EXPECT_EQ(status([](Params& p) { p.block_stride_bytes += 8; }), kInvalid);
  EXPECT_EQ(status([](Params& p) { p.q_succ = p.q_intra; }), kInvalid);
  EXPECT_EQ(status([](Params& p) { p.inter = p.intra; }), kInvalid);
  EXPECT_EQ(status([](Params& p) { p.qkv += 1; }), kInvalid);
  EXPECT_EQ(status([](Params& p) { p.layout.head_dim = 32; }), KernelStatus::kUnimplemented);
  EXPECT_EQ(status([](Params& p) {
              p.layout.dtype = KvDtype::kFloat32;
              p.block_stride_bytes *= 2;
            }),
            KernelStatus::kUnimplemented);
  EXPECT_EQ(status([](Params& p) {
              p.num_rows = 1;
              p.slot = nullptr;
            }),
            kInvalid);
}

}  // namespace
}  // namespace longhaul::kernels
