#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/rope/rope_qkv.h"
#include "kernels/rope/rope_table.h"
#include "tests/testing/kernel_testing.h"
#include "tests/testing/paged_cache.h"

namespace longhaul::kernels {
namespace {

using longhaul::testing::FreshRandom;
using longhaul::testing::Near;
using longhaul::testing::Normal;
using longhaul::testing::PagedCache;
using longhaul::testing::Poisoned;
using longhaul::testing::SameBits;
using longhaul::testing::ThreadParallel;
using longhaul::testing::Uniform;

TEST(RopePosition, FollowsTheTableOfTheSpecificationAtItsBoundaries) {
  // The published models: s = 253952, c = 262144, so local_size = 8192.
  constexpr int64_t kS = 253952;
  constexpr int64_t kC = 262144;
  const struct {
    int64_t p, intra, succ, inter;
  } cases[] = {
      {0, 0, kS, kC},
      {kS - 1, kS - 1, kC, kC},
      {kS, 0, kS, kC},
      {kS + 8191, 8191, kC - 1, kC},
      {kS + 8192, 8192, kC, kC},
      {kS + 8193, 8193, kC, kC},
      {2 * kS - 1, kS - 1, kC, kC},
      {2 * kS, 0, kS, kC},
      {2 * kS + 1, 1, kS + 1, kC},
      {1009999, 1009999 - 3 * kS, kC, kC},
  };
  for (const auto& c : cases) {
    EXPECT_EQ(RopePosition(RopeVariant::kIntra, c.p, kS, kC), c.intra) << c.p;
    EXPECT_EQ(RopePosition(RopeVariant::kSucc, c.p, kS, kC), c.succ) << c.p;
    EXPECT_EQ(RopePosition(RopeVariant::kInter, c.p, kS, kC), c.inter) << c.p;
    EXPECT_EQ(RopePosition(RopeVariant::kIntra, c.p, 0, 0), c.p) << "plain";
  }
}

TEST(RopeInverseFrequencies, AreWithinAnUlpOfTheExactPower) {
  for (const double theta : {1e4, 1e6, 1e7}) {
    for (const int32_t head_dim : {64, 128}) {
      std::vector<float> inv_freq = Poisoned(head_dim / 2);
      RopeInverseFrequencies(theta, head_dim, inv_freq.data());
      EXPECT_EQ(inv_freq[0], 1.0f);
      for (int32_t i = 1; i < head_dim / 2; ++i) {
        const double exact = std::pow(theta, -2.0 * i / head_dim);
        EXPECT_NEAR(inv_freq[i] / exact, 1, 1.5e-7) << theta << " " << i;
      }
    }
  }
}

TEST(RopeTable, EqualsReferenceForEachVariantUpToAMillion) {
  std::mt19937_64 random = FreshRandom();
  for (const RopeVariant variant : {RopeVariant::kIntra, RopeVariant::kSucc, RopeVariant::kInter}) {
    for (const int64_t chunk_len : {int64_t{0}, int64_t{512}, int64_t{253952}}) {
      if (chunk_len == 0 && variant != RopeVariant::kIntra) continue;
      std::vector<int64_t> positions = {0, 1, 511, 512, 513, 639, 640, 641, 1023, 1024, 1025};
      for (int i = 0; i < 57; ++i) positions.push_back(Uniform(random, 0, 1010000));
      const int64_t rows = static_cast<int64_t>(positions.size());
      std::vector<float> cos = Poisoned(rows * 64);
      std::vector<float> sin = cos, want_cos = cos, want_sin = cos;
      RopeTableParams params = {.positions = positions.data(),
                                .num_rows = rows,
                                .head_dim = 128,
                                .theta = 1e7,
                                .variant = variant,
                                .chunk_len = chunk_len,
                                .chunk_size = chunk_len + 128,
                                .cos = want_cos.data(),
                                .sin = want_sin.data()};
      ASSERT_EQ(RopeTableRef(params), KernelStatus::kOk);
      params.cos = cos.data();
      params.sin = sin.data();
      ThreadParallel threads(3);
      ASSERT_EQ(RopeTableCpu(params, threads), KernelStatus::kOk);
      EXPECT_TRUE(Near(cos, want_cos, longhaul::testing::kRopeTableTolerance));
      EXPECT_TRUE(Near(sin, want_sin, longhaul::testing::kRopeTableTolerance));
    }
  }
}

TEST(RopeTable, RefusesVariantsWithoutDcaAndBadSizes) {
  SerialParallel serial;
  const RopeTableParams good = {.head_dim = 64, .theta = 1e4};
  EXPECT_EQ(RopeTableCpu(good, serial), KernelStatus::kOk);
  RopeTableParams bad = good;
  bad.variant = RopeVariant::kSucc;
  EXPECT_EQ(RopeTableCpu(bad, serial), KernelStatus::kInvalidArgument);
  bad = good;
  bad.head_dim = 63;
  EXPECT_EQ(RopeTableCpu(bad, serial), KernelStatus::kInvalidArgument);
  bad = good;
  bad.chunk_len = 512;
  bad.chunk_size = 511;
  EXPECT_EQ(RopeTableCpu(bad, serial), KernelStatus::kInvalidArgument);
}

// One call's inputs, with tables of arbitrary angles: that they are the right ones is RopeTable's
// part.
struct QkvCase {
  QkvCase(std::mt19937_64& random, const KvLayout& kv_layout, int32_t q_heads, int64_t rows,
          int64_t begin)
      : layout(kv_layout),
        num_q_heads(q_heads),
        num_rows(rows),
        position_begin(begin),
        qkv(Normal(random, rows * (q_heads + 2 * layout.num_kv_heads) * layout.head_dim)),
        scale(Normal(random, rows)) {
    for (auto& table : tables) {
      table.resize(2 * rows * layout.head_dim / 2);
      for (int64_t i = 0; i < rows * layout.head_dim / 2; ++i) {
        const double angle = std::uniform_real_distribution<double>(0, 7)(random);
        table[i] = static_cast<float>(std::cos(angle));
        table[rows * layout.head_dim / 2 + i] = static_cast<float>(std::sin(angle));
      }
    }
  }

  RopeAngles Angles(int table) const {
    return {tables[table].data(), tables[table].data() + num_rows * layout.head_dim / 2};
  }

  const KvLayout layout;
  const int32_t num_q_heads;
  const int64_t num_rows;
  const int64_t position_begin;
  const std::vector<float> qkv;
  const std::vector<float> scale;
  std::vector<float> tables[3];
};

struct QkvResult {
  std::vector<float> q[3];
  std::vector<float> kv;       // of the call's tokens, K then V
  std::vector<uint8_t> bytes;  // all of the cache
};

template <typename Launch>
QkvResult RunQkv(const QkvCase& c, uint64_t layout_seed, const Launch& launch) {
  std::mt19937_64 order(layout_seed);
  PagedCache cache(order, c.layout, c.position_begin + c.num_rows + 3);
  QkvResult result;
  for (auto& q : result.q) q = Poisoned(c.num_rows * c.num_q_heads * c.layout.head_dim);
  const RopeQkvParams params = {.qkv = c.qkv.data(),
                                .num_rows = c.num_rows,
                                .position_begin = c.position_begin,
                                .num_q_heads = c.num_q_heads,
                                .query_scale = c.scale.data(),
                                .intra = c.Angles(0),
                                .succ = c.Angles(1),
                                .inter = c.Angles(2),
                                .q_intra = result.q[0].data(),
                                .q_succ = result.q[1].data(),
                                .q_inter = result.q[2].data(),
                                .kv = cache.View()};
  EXPECT_EQ(launch(params), KernelStatus::kOk);
  for (const bool is_key : {true, false}) {
    for (int64_t t = 0; t < c.num_rows; ++t) {
      for (int32_t head = 0; head < c.layout.num_kv_heads; ++head) {
        for (int32_t d = 0; d < c.layout.head_dim; ++d) {
          result.kv.push_back(cache.Get(c.position_begin + t, head, d, is_key));
        }
      }
    }
  }
  result.bytes = cache.Bytes();
  return result;
}

TEST(RopeQkv, EqualsReferenceAndTouchesNoOtherToken) {
  std::mt19937_64 random = FreshRandom();
  for (const KvDtype dtype : {KvDtype::kFloat32, KvDtype::kBFloat16}) {
    for (const int64_t rows : {1, 7, 8, 17, 255, 256, 257}) {
      SCOPED_TRACE(::testing::Message() << "rows " << rows << " type " << static_cast<int>(dtype));
      const QkvCase c(random, {2, 64, dtype}, 4, rows, Uniform(random, 0, 600));
      const uint64_t seed = random();
      const QkvResult want = RunQkv(c, seed, [](const RopeQkvParams& p) { return RopeQkvRef(p); });
      ThreadParallel threads(3);
      const QkvResult got =
          RunQkv(c, seed, [&](const RopeQkvParams& p) { return RopeQkvCpu(p, threads); });
      for (int i = 0; i < 3; ++i) {
        EXPECT_TRUE(Near(got.q[i], want.q[i], longhaul::testing::kRopeTolerance)) << i;
      }
      EXPECT_TRUE(Near(got.kv, want.kv,
                       dtype == KvDtype::kFloat32 ? longhaul::testing::kRopeTolerance
                                                  : longhaul::testing::kRopeBFloat16Tolerance));
      // What is still poison in one cache is so in the other: exactly the same bytes were written.
      const auto poison = [](const std::vector<uint8_t>& bytes) {
        return std::count(bytes.begin(), bytes.end(), uint8_t{0xff});
      };
      const int64_t untouched =
          static_cast<int64_t>(got.bytes.size()) - rows * 2 * 2 * 64 * c.layout.ElementBytes();
      EXPECT_GE(poison(got.bytes), untouched);
    }
  }
}

TEST(RopeQkv, ATokenHasTheSameBitsInAnyChunk) {
  std::mt19937_64 random = FreshRandom();
  const QkvCase c(random, {1, 128, KvDtype::kFloat32}, 2, 300, 100);
  const uint64_t seed = random();
  SerialParallel serial;
  const QkvResult whole =
      RunQkv(c, seed, [&](const RopeQkvParams& p) { return RopeQkvCpu(p, serial); });
  const QkvResult chunked = RunQkv(c, seed, [&](const RopeQkvParams& p) {
    for (int64_t begin = 0; begin < p.num_rows;) {
      const int64_t rows = std::min(Uniform(random, 1, 70), p.num_rows - begin);
      RopeQkvParams part = p;
      part.qkv += begin * 4 * 128;
      part.num_rows = rows;
      part.position_begin += begin;
      part.query_scale += begin;
      for (RopeAngles* angles : {&part.intra, &part.succ, &part.inter}) {
        angles->cos += begin * 64;
        angles->sin += begin * 64;
      }
      for (float** q : {&part.q_intra, &part.q_succ, &part.q_inter}) *q += begin * 2 * 128;
      ThreadParallel threads(2);
      const KernelStatus status = RopeQkvCpu(part, threads);
      if (status != KernelStatus::kOk) return status;
      begin += rows;
    }
    return KernelStatus::kOk;
  });
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(SameBits(chunked.q[i], whole.q[i])) << i;
  EXPECT_EQ(chunked.bytes, whole.bytes);
}

TEST(RopeQkv, RefusesHalfGivenVariantsAndShortTables) {
  std::mt19937_64 random = FreshRandom();
  const QkvCase c(random, {1, 64, KvDtype::kFloat32}, 2, 5, 0);
  SerialParallel serial;
  RunQkv(c, 1, [&](RopeQkvParams p) {
    RopeQkvParams bad = p;
    bad.q_succ = nullptr;
    EXPECT_EQ(RopeQkvCpu(bad, serial), KernelStatus::kInvalidArgument);
    bad = p;
    bad.inter.sin = nullptr;
    EXPECT_EQ(RopeQkvCpu(bad, serial), KernelStatus::kInvalidArgument);
    bad = p;
    bad.position_begin = 252;
    EXPECT_EQ(RopeQkvCpu(bad, serial), KernelStatus::kInvalidArgument);
    p.q_succ = p.q_inter = nullptr;
    p.succ = p.inter = {};
    p.query_scale = nullptr;
    return RopeQkvCpu(p, serial);
  });
}

}  // namespace
}  // namespace longhaul::kernels
