#include "kernels/attention/attention.h"

#include <string>
#include <vector>

#include "kernels/attention/attention_tile.h"
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

std::vector<CpuIsa> MachineIsas() {
  std::vector<CpuIsa> isas;
  for (const CpuIsa isa : {CpuIsa::kPortable, CpuIsa::kAvx2, CpuIsa::kAvx512}) {
    if (isa <= BestCpuIsa()) isas.push_back(isa);
  }
  return isas;
}

struct Shape {
  int32_t num_q_heads = 4;
  int32_t num_kv_heads = 2;
  int32_t head_dim = 64;
  KvDtype dtype = KvDtype::kFloat32;
  int64_t chunk_len = 0;

  KvLayout Layout() const { return {num_kv_heads, head_dim, dtype}; }
  int64_t RowSize() const { return int64_t{num_q_heads} * head_dim; }
};

std::ostream& operator<<(std::ostream& out, const Shape& shape) {
  return out << "Hq " << shape.num_q_heads << " Hkv " << shape.num_kv_heads << " D "
             << shape.head_dim << (shape.dtype == KvDtype::kFloat32 ? " fp32" : " bf16")
             << " chunk_len " << shape.chunk_len;
}

// Random queries, keys and values of a sequence of `length` tokens. Query variants are unrelated,
// so that a row that looks at a region with the wrong one is far off.
struct Sequence {
  Sequence(std::mt19937_64& random, const Shape& s, int64_t num_tokens)
      : shape(s),
        length(num_tokens),
        q_intra(Normal(random, length * s.RowSize())),
        q_succ(Normal(random, length * s.RowSize())),
        q_inter(Normal(random, length * s.RowSize())),
        k(Normal(random, length * s.num_kv_heads * s.head_dim)),
        v(Normal(random, length * s.num_kv_heads * s.head_dim)),
        cache(random, s.Layout(), length) {}

  // Puts tokens into the cache until it holds `end`; what lies behind them stays NaN.
  void FillTo(int64_t end) {
    const int64_t row = int64_t{shape.num_kv_heads} * shape.head_dim;
    for (; filled < end; ++filled) cache.Write(filled, &k[filled * row], &v[filled * row]);
  }

  // Queries [begin, begin + rows); outputs go to the same rows of out and lse.
  AttentionParams Params(int64_t begin, int64_t rows, float* out, float* lse) const {
    const int64_t offset = begin * shape.RowSize();
    return {.q_intra = &q_intra[offset],
            .q_succ = &q_succ[offset],
            .q_inter = &q_inter[offset],
            .num_rows = rows,
            .query_begin = begin,
            .num_q_heads = shape.num_q_heads,
            .softmax_scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim)),
            .chunk_len = shape.chunk_len,
            .kv = cache.View(),
            .out = out + offset,
            .lse = lse == nullptr ? nullptr : lse + begin * shape.num_q_heads};
  }

  Shape shape;
  int64_t length;
  std::vector<float> q_intra, q_succ, q_inter, k, v;
  PagedCache cache;
  int64_t filled = 0;
};

void ExpectEqualsReference(std::mt19937_64& random, const Shape& shape, int64_t begin,
                           int64_t rows) {
  SCOPED_TRACE(::testing::Message() << shape << " queries " << begin << " + " << rows);
  Sequence sequence(random, shape, begin + rows);
  sequence.FillTo(begin + rows);
  const int64_t out_size = sequence.length * shape.RowSize();
  const int64_t lse_size = sequence.length * shape.num_q_heads;
  std::vector<float> want(out_size, 0.0f);
  std::vector<float> want_lse(lse_size, 0.0f);
  ASSERT_EQ(AttentionRef(sequence.Params(begin, rows, want.data(), want_lse.data())),
            KernelStatus::kOk);
  for (const CpuIsa isa : MachineIsas()) {
    SCOPED_TRACE(::testing::Message() << "isa " << static_cast<int>(isa));
    std::vector<float> out(out_size, 0.0f);
    std::vector<float> lse(lse_size, 0.0f);
    std::fill(out.begin() + begin * shape.RowSize(), out.end(), std::nanf(""));
    std::fill(lse.begin() + begin * shape.num_q_heads, lse.end(), std::nanf(""));
    SerialParallel serial;
    ASSERT_EQ(AttentionCpuWith(isa, sequence.Params(begin, rows, out.data(), lse.data()), serial),
              KernelStatus::kOk);
    EXPECT_TRUE(Near(out, want, longhaul::testing::kAttentionTolerance));
    EXPECT_TRUE(Near(lse, want_lse, longhaul::testing::kLseTolerance));
  }
}

TEST(Attention, EqualsReferenceAroundTileAndBlockEdges) {
  std::mt19937_64 random = FreshRandom();
  for (const int64_t rows : {1, 2, 5, 6, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65}) {
    ExpectEqualsReference(random, Shape{}, 0, rows);
    ExpectEqualsReference(random, Shape{}, Uniform(random, 200, 300), rows);
  }
  for (const int64_t begin : {254, 255, 256, 257, 511, 512, 513}) {
    ExpectEqualsReference(random, Shape{}, begin, 3);
  }
}

TEST(Attention, EqualsReferenceForEachHeadDimTypeAndGroup) {
  std::mt19937_64 random = FreshRandom();
  for (const int32_t head_dim : {64, 128}) {
    for (const KvDtype dtype : {KvDtype::kFloat32, KvDtype::kBFloat16}) {
      for (const int32_t group : {1, 5, 7}) {
        const int32_t kv_heads = group == 7 ? 1 : 2;
        const Shape shape = {group * kv_heads, kv_heads, head_dim, dtype, 0};
        ExpectEqualsReference(random, shape, Uniform(random, 250, 260), 5);
      }
    }
  }
}

TEST(Attention, EqualsReferenceWhereOneTokenFillsHalfATile) {
  std::mt19937_64 random = FreshRandom();
  ExpectEqualsReference(random, {64, 1, 64, KvDtype::kFloat32, 0}, 60, 3);
}

TEST(Attention, EqualsReferenceAroundDcaBoundaries) {
  std::mt19937_64 random = FreshRandom();
  for (const int64_t chunk_len : {256, 512}) {
    const Shape shape = {2, 1, 64, KvDtype::kFloat32, chunk_len};
    for (const int64_t segments : {1, 2, 3}) {
      // Rows chunk_len - 1, chunk_len, chunk_len + 1 of each segment in one call, and alone.
      ExpectEqualsReference(random, shape, segments * chunk_len - 2, 4);
      ExpectEqualsReference(random, shape, segments * chunk_len - 1, 1);
      ExpectEqualsReference(random, shape, segments * chunk_len, 1);
      ExpectEqualsReference(random, shape, segments * chunk_len + 1, 1);
    }
  }
}

// One run of the whole sequence, then runs in chunks with the cache filled only as far as each
// needs.
void ExpectAnyChunkingGivesTheSameBits(std::mt19937_64& random, const Shape& shape, CpuIsa isa,
                                       int64_t length, int64_t max_chunk) {
  SCOPED_TRACE(::testing::Message() << shape << " isa " << static_cast<int>(isa));
  Sequence whole(random, shape, length);
  Sequence chunked = [&] {
    Sequence copy(random, shape, length);
    copy.q_intra = whole.q_intra;
    copy.q_succ = whole.q_succ;
    copy.q_inter = whole.q_inter;
    copy.k = whole.k;
    copy.v = whole.v;
    return copy;
  }();
  whole.FillTo(length);
  std::vector<float> want = Poisoned(length * shape.RowSize());
  std::vector<float> want_lse = Poisoned(length * shape.num_q_heads);
  SerialParallel serial;
  ASSERT_EQ(AttentionCpuWith(isa, whole.Params(0, length, want.data(), want_lse.data()), serial),
            KernelStatus::kOk);

  std::vector<float> out = Poisoned(length * shape.RowSize());
  std::vector<float> lse = Poisoned(length * shape.num_q_heads);
  for (int64_t begin = 0; begin < length;) {
    const int64_t limit = Uniform(random, 0, 3) == 0 ? 1 : max_chunk;
    const int64_t rows = std::min(Uniform(random, 1, limit), length - begin);
    chunked.FillTo(begin + rows);
    ThreadParallel threads(static_cast<int>(Uniform(random, 1, 3)));
    ASSERT_EQ(AttentionCpuWith(isa, chunked.Params(begin, rows, out.data(), lse.data()), threads),
              KernelStatus::kOk);
    begin += rows;
  }
  EXPECT_TRUE(SameBits(out, want));
  EXPECT_TRUE(SameBits(lse, want_lse));
}

TEST(Attention, AnyChunkingGivesTheSameBits) {
  std::mt19937_64 random = FreshRandom();
  for (const CpuIsa isa : MachineIsas()) {
    ExpectAnyChunkingGivesTheSameBits(random, {4, 2, 64, KvDtype::kFloat32, 256}, isa, 900, 150);
    ExpectAnyChunkingGivesTheSameBits(random, {7, 1, 128, KvDtype::kFloat32, 0}, isa, 600, 90);
    ExpectAnyChunkingGivesTheSameBits(random, {2, 2, 128, KvDtype::kBFloat16, 512}, isa, 1030, 400);
  }
}

TEST(Attention, AnyNumberOfThreadsGivesTheSameBits) {
  std::mt19937_64 random = FreshRandom();
  const Shape shape = {4, 2, 128, KvDtype::kFloat32, 256};
  Sequence sequence(random, shape, 777);
  sequence.FillTo(777);
  std::vector<float> want = Poisoned(777 * shape.RowSize());
  SerialParallel serial;
  ASSERT_EQ(AttentionCpu(sequence.Params(0, 777, want.data(), nullptr), serial), KernelStatus::kOk);
  for (const int num_threads : {2, 3}) {
    std::vector<float> out = Poisoned(777 * shape.RowSize());
    ThreadParallel threads(num_threads);
    ASSERT_EQ(AttentionCpu(sequence.Params(0, 777, out.data(), nullptr), threads),
              KernelStatus::kOk);
    EXPECT_TRUE(SameBits(out, want)) << num_threads << " threads";
  }
}

TEST(Attention, DcaWithinOneSegmentIsPlainAttentionBitwise) {
  std::mt19937_64 random = FreshRandom();
  Sequence sequence(random, {2, 1, 64, KvDtype::kFloat32, 512}, 512);
  sequence.FillTo(512);
  std::vector<float> dca = Poisoned(512 * sequence.shape.RowSize());
  std::vector<float> plain = Poisoned(512 * sequence.shape.RowSize());
  SerialParallel serial;
  AttentionParams params = sequence.Params(0, 512, dca.data(), nullptr);
  params.q_succ = params.q_inter = nullptr;
  ASSERT_EQ(AttentionCpu(params, serial), KernelStatus::kOk);
  params.chunk_len = 0;
  params.out = plain.data();
  ASSERT_EQ(AttentionCpu(params, serial), KernelStatus::kOk);
  EXPECT_TRUE(SameBits(dca, plain));
}

TEST(Attention, SurvivesScoresFarApart) {
  std::mt19937_64 random = FreshRandom();
  Sequence sequence(random, {2, 1, 64, KvDtype::kFloat32, 0}, 300);
  for (float& q : sequence.q_intra) q *= 100;  // softmax is one-hot, exp underflows everywhere else
  sequence.FillTo(300);
  std::vector<float> want = Poisoned(300 * sequence.shape.RowSize());
  ASSERT_EQ(AttentionRef(sequence.Params(0, 300, want.data(), nullptr)), KernelStatus::kOk);
  for (const CpuIsa isa : MachineIsas()) {
    std::vector<float> out = Poisoned(300 * sequence.shape.RowSize());
    SerialParallel serial;
    ASSERT_EQ(AttentionCpuWith(isa, sequence.Params(0, 300, out.data(), nullptr), serial),
              KernelStatus::kOk);
    EXPECT_TRUE(Near(out, want, {1e-3, 1e-3})) << "scores of 100s carry errors of 1e-4";
  }
}

TEST(Attention, ShowsANanOfTheQueryAndKeepsItToItsRow) {
  std::mt19937_64 random = FreshRandom();
  Sequence sequence(random, {2, 1, 64, KvDtype::kFloat32, 0}, 20);
  sequence.FillTo(20);
  sequence.q_intra[7 * sequence.shape.RowSize() + 3] = std::nanf("");
  for (const CpuIsa isa : MachineIsas()) {
    std::vector<float> out(20 * sequence.shape.RowSize(), 0.0f);
    SerialParallel serial;
    ASSERT_EQ(AttentionCpuWith(isa, sequence.Params(0, 20, out.data(), nullptr), serial),
              KernelStatus::kOk);
    for (int64_t i = 0; i < static_cast<int64_t>(out.size()); ++i) {
      EXPECT_EQ(std::isnan(out[i]), i / 64 == 14) << i;
    }
  }
}

TEST(Attention, RefusesWhatItsContractExcludes) {
  std::mt19937_64 random = FreshRandom();
  Sequence sequence(random, {4, 2, 64, KvDtype::kFloat32, 512}, 1200);
  std::vector<float> out = Poisoned(1200 * sequence.shape.RowSize());
  const AttentionParams good = sequence.Params(1100, 4, out.data(), nullptr);
  const struct {
    const char* name;
    void (*spoil)(AttentionParams&);
    KernelStatus want;
  } cases[] = {
      {"chunk_len off the block grid", [](AttentionParams& p) { p.chunk_len = 500; },
       KernelStatus::kInvalidArgument},
      {"missing succ queries", [](AttentionParams& p) { p.q_succ = nullptr; },
       KernelStatus::kInvalidArgument},
      {"missing inter queries", [](AttentionParams& p) { p.q_inter = nullptr; },
       KernelStatus::kInvalidArgument},
      {"short block table", [](AttentionParams& p) { p.kv.num_blocks = 4; },
       KernelStatus::kInvalidArgument},
      {"heads that do not group", [](AttentionParams& p) { p.num_q_heads = 3; },
       KernelStatus::kInvalidArgument},
      {"no scale", [](AttentionParams& p) { p.softmax_scale = 0; }, KernelStatus::kInvalidArgument},
      {"head_dim without a kernel", [](AttentionParams& p) { p.kv.layout.head_dim = 32; },
       KernelStatus::kUnimplemented},
      {"nothing to do", [](AttentionParams& p) { p.num_rows = 0; }, KernelStatus::kOk},
  };
  for (const auto& c : cases) {
    AttentionParams params = good;
    c.spoil(params);
    SerialParallel serial;
    EXPECT_EQ(AttentionCpu(params, serial), c.want) << c.name;
  }
}

}  // namespace
}  // namespace longhaul::kernels
