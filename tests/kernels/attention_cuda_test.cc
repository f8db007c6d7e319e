#include <cmath>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/attention/attention.h"
#include "kernels/attention/paged_attention.h"
#include "tests/testing/cuda_testing.h"
#include "tests/testing/device_cache.h"
#include "tests/testing/paged_cache.h"

namespace longhaul::kernels {
namespace {

using longhaul::testing::DeviceArray;
using longhaul::testing::DeviceCache;
using longhaul::testing::Near;
using longhaul::testing::NormalBFloat16;
using longhaul::testing::PagedCache;
using longhaul::testing::ToBFloat16;
using longhaul::testing::ToFloat;
using longhaul::testing::Uniform;

struct Shape {
  int32_t num_kv_heads = 1;
  int32_t group = 1;
  int32_t head_dim = 128;
  int64_t chunk_len = 0;
  int32_t num_q_heads() const { return num_kv_heads * group; }
  int64_t row_size() const { return int64_t{num_q_heads()} * head_dim; }
};

struct Sequence {
  int64_t position_begin = 0;
  int64_t num_rows = 0;
};

struct Rows {
  std::vector<float> out;  // [T, Hq, D]
  std::vector<float> lse;  // [T, Hq]
};

// Sequences with random queries, keys and values (bf16 numbers), and both sides' answers.
class Problem {
 public:
  Problem(std::mt19937_64& random, const Shape& shape, const std::vector<Sequence>& sequences)
      : shape_(shape),
        sequences_(sequences),
        cache_(random, shape.num_kv_heads, shape.head_dim, Tokens(sequences)) {
    for (const Sequence& sequence : sequences) num_rows_ += sequence.num_rows;
    for (std::vector<float>* q : {&inter_, &succ_, &intra_}) {
      *q = NormalBFloat16(random, num_rows_ * shape.row_size());
    }
    const KvLayout layout{.num_kv_heads = shape.num_kv_heads, .head_dim = shape.head_dim};
    const int64_t kv_size = int64_t{shape.num_kv_heads} * shape.head_dim;
    for (size_t i = 0; i < sequences.size(); ++i) {
      const int64_t tokens = sequences[i].position_begin + sequences[i].num_rows;
      host_caches_.emplace_back(random, layout, tokens);
      for (int64_t token = 0; token < tokens; ++token) {
        const std::vector<float> k = NormalBFloat16(random, kv_size);
        const std::vector<float> v = NormalBFloat16(random, kv_size);
        host_caches_.back().Write(token, k.data(), v.data());
        cache_.Write(static_cast<int64_t>(i), token, k.data(), v.data());
      }
    }
  }

  Rows Expected() {
    Rows rows = Blank();
    int64_t row = 0;
    for (size_t i = 0; i < sequences_.size(); ++i) {
      const AttentionParams p = {.q_intra = &intra_[row * shape_.row_size()],
                                 .q_succ = &succ_[row * shape_.row_size()],
                                 .q_inter = &inter_[row * shape_.row_size()],
                                 .num_rows = sequences_[i].num_rows,
                                 .query_begin = sequences_[i].position_begin,
                                 .num_q_heads = shape_.num_q_heads(),
                                 .softmax_scale = Scale(),
                                 .chunk_len = shape_.chunk_len,
                                 .kv = host_caches_[i].View(),
                                 .out = &rows.out[row * shape_.row_size()],
                                 .lse = &rows.lse[row * shape_.num_q_heads()]};
      EXPECT_EQ(AttentionRef(p), KernelStatus::kOk);
      row += sequences_[i].num_rows;
    }
    return rows;
  }

  // Each sequence's rows, those before `cut` and those from it on in launches of their own, by the
  // prefill kernel or (one row each) by that of decode.
  Rows Prefill(DeviceStream stream, AttentionPath path, int64_t cut = 0) {
    std::vector<SequenceQueries> first, second;
    for (const SequenceQueries& all : Queries()) {
      const int64_t at = std::min(cut, all.num_rows);
      if (at > 0) first.push_back(Part(all, 0, at));
      if (at < all.num_rows) second.push_back(Part(all, at, all.num_rows));
    }
    return Run([&](const PagedAttentionParams& p) {
      for (const auto& queries : {first, second}) {
        const DeviceArray<PrefillTile> tiles(PlanPrefill(queries));
        EXPECT_EQ(
            PrefillAttentionCuda(p, tiles.data(), static_cast<int32_t>(tiles.size()), stream, path),
            KernelStatus::kOk);
        EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
      }
    });
  }
  Rows Decode(DeviceStream stream) {
    return Run([&](const PagedAttentionParams& p) {
      const DecodePlan plan = PlanDecode(Queries());
      const DeviceArray<DecodeSplit> splits(plan.splits);
      const DeviceArray<DecodeRow> rows(plan.rows);
      const int32_t num_splits = static_cast<int32_t>(plan.splits.size());
      const DeviceArray<uint8_t> workspace(DecodeWorkspaceBytes(p, num_splits));
      EXPECT_EQ(DecodeAttentionCuda(p, splits.data(), num_splits, rows.data(),
                                    static_cast<int32_t>(rows.size()), workspace.data(), stream),
                KernelStatus::kOk);
      EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    });
  }

 private:
  static std::vector<int64_t> Tokens(const std::vector<Sequence>& sequences) {
    std::vector<int64_t> tokens;
    for (const Sequence& sequence : sequences) {
      tokens.push_back(sequence.position_begin + sequence.num_rows);
    }
    return tokens;
  }
  static SequenceQueries Part(SequenceQueries all, int64_t begin, int64_t end) {
    all.row_begin += begin;
    all.position_begin += begin;
    all.num_rows = end - begin;
    return all;
  }
  std::vector<SequenceQueries> Queries() const {
    std::vector<SequenceQueries> queries;
    int64_t row = 0;
    for (size_t i = 0; i < sequences_.size(); ++i) {
      queries.push_back({.row_begin = row,
                         .num_rows = sequences_[i].num_rows,
                         .position_begin = sequences_[i].position_begin,
                         .table_begin = cache_.table_begin(static_cast<int64_t>(i))});
      row += sequences_[i].num_rows;
    }
    return queries;
  }
  float Scale() const { return static_cast<float>(1 / std::sqrt(shape_.head_dim)); }
  Rows Blank() const {
    return {.out = std::vector<float>(num_rows_ * shape_.row_size()),
            .lse = std::vector<float>(num_rows_ * shape_.num_q_heads())};
  }

  template <typename Launch>
  Rows Run(Launch launch) {
    const DeviceArray<BFloat16> inter(ToBFloat16(inter_));
    const DeviceArray<BFloat16> succ(ToBFloat16(succ_));
    const DeviceArray<BFloat16> intra(ToBFloat16(intra_));
    const DeviceArray<int32_t> tables(cache_.tables());
    const DeviceArray<uint8_t> cache(cache_.bytes());
    const DeviceArray<BFloat16> out(num_rows_ * shape_.row_size());
    const DeviceArray<float> lse(num_rows_ * shape_.num_q_heads());
    launch(PagedAttentionParams{.q_intra = intra.data(),
                                .q_succ = succ.data(),
                                .q_inter = inter.data(),
                                .block_tables = tables.data(),
                                .kv_base = cache.data(),
                                .out = out.data(),
                                .lse = lse.data(),
                                .num_rows = num_rows_,
                                .block_stride_bytes = cache_.stride(),
                                .num_blocks = cache_.num_blocks(),
                                .layout = cache_.layout(),
                                .num_q_heads = shape_.num_q_heads(),
                                .softmax_scale = Scale(),
                                .chunk_len = shape_.chunk_len});
    return {.out = ToFloat(out.Download()), .lse = lse.Download()};
  }

  const Shape shape_;
  const std::vector<Sequence> sequences_;
  DeviceCache cache_;
  std::vector<PagedCache> host_caches_;
  int64_t num_rows_ = 0;
  std::vector<float> inter_, succ_, intra_;
};

void ExpectNear(const Rows& actual, const Rows& expected) {
  EXPECT_TRUE(Near(actual.out, expected.out, longhaul::testing::kAttentionBFloat16Tolerance));
  EXPECT_TRUE(Near(actual.lse, expected.lse, longhaul::testing::kLseBFloat16Tolerance));
}

using AttentionCudaTest = longhaul::testing::CudaTest;

class PrefillCudaTest : public AttentionCudaTest,
                        public ::testing::WithParamInterface<AttentionPath> {};
INSTANTIATE_TEST_SUITE_P(Paths, PrefillCudaTest,
                         ::testing::Values(AttentionPath::kBest, AttentionPath::kPortable),
                         [](const auto& path) {
                           return path.param == AttentionPath::kBest ? "Best" : "Portable";
                         });

TEST_P(PrefillCudaTest, IsTheReferenceAroundTheEdgesOfTiles) {
  std::mt19937_64 random = longhaul::testing::FreshRandom();
  for (const int32_t head_dim : {64, 128}) {
    for (const int64_t rows : {1, 63, 64, 65, 127, 128, 129, 255, 257, 400}) {
      SCOPED_TRACE(::testing::Message() << "D " << head_dim << ", rows " << rows);
      Problem problem(random, {.num_kv_heads = 2, .group = 2, .head_dim = head_dim},
                      {{.position_begin = 0, .num_rows = rows}});
      ExpectNear(problem.Prefill(stream(), GetParam()), problem.Expected());
    }
  }
}

TEST_P(PrefillCudaTest, IsTheReferenceInAllRegionsOfDualChunkAttention) {
  std::mt19937_64 random = longhaul::testing::FreshRandom();
  for (const int32_t head_dim : {64, 128}) {
    for (const int64_t chunk_len : {256, 768}) {
      for (const int64_t begin : {0, 200, 256, 511, 1024, 2000}) {
        SCOPED_TRACE(::testing::Message()
                     << "D " << head_dim << ", chunk_len " << chunk_len << ", from " << begin);
        Problem problem(
            random, {.num_kv_heads = 1, .group = 3, .head_dim = head_dim, .chunk_len = chunk_len},
            {{.position_begin = begin, .num_rows = Uniform(random, 1, 900)}});
        ExpectNear(problem.Prefill(stream(), GetParam()), problem.Expected());
      }
    }
  }
}

TEST_P(PrefillCudaTest, TakesManySequencesAndMoreWorkThanMultiprocessors) {
  std::mt19937_64 random = longhaul::testing::FreshRandom();
  std::vector<Sequence> sequences;
  for (int i = 0; i < 24; ++i) {
    sequences.push_back(
        {.position_begin = Uniform(random, 0, 700), .num_rows = Uniform(random, 1, 300)});
  }
  Problem problem(random, {.num_kv_heads = 2, .group = 7, .chunk_len = 256}, sequences);
  ExpectNear(problem.Prefill(stream(), GetParam()), problem.Expected());
}

TEST_P(PrefillCudaTest, HasTheSameBitsHoweverASequenceIsCut) {
  std::mt19937_64 random = longhaul::testing::FreshRandom();
  for (int repeat = 0; repeat < 10; ++repeat) {
    Problem problem(random, {.num_kv_heads = 2, .group = 7, .chunk_len = 512},
                    {{.position_begin = Uniform(random, 0, 1500), .num_rows = 700},
                     {.position_begin = 0, .num_rows = Uniform(random, 1, 300)}});
    const Rows whole = problem.Prefill(stream(), GetParam());
    const int64_t cut = Uniform(random, 1, 699);
    const Rows parts = problem.Prefill(stream(), GetParam(), cut);
    EXPECT_TRUE(longhaul::testing::SameBits(parts.out, whole.out)) << "cut at " << cut;
    EXPECT_TRUE(longhaul::testing::SameBits(parts.lse, whole.lse)) << "cut at " << cut;
  }
}

TEST_F(AttentionCudaTest, DecodeIsTheReferenceAtEveryLength) {
  std::mt19937_64 random = longhaul::testing::FreshRandom();
  for (const int32_t head_dim : {64, 128}) {
    for (const int32_t group : {1, 5, 7, 16}) {
      for (const int64_t chunk_len : {0, 256, 1024}) {
        SCOPED_TRACE(::testing::Message()
                     << "D " << head_dim << ", group " << group << ", chunk_len " << chunk_len);
        std::vector<Sequence> sequences;
        for (const int64_t position : {0, 1, 15, 16, 17, 63, 64, 127, 255, 256, 257, 1023, 1025}) {
          sequences.push_back({.position_begin = position, .num_rows = 1});
        }
        sequences.push_back({.position_begin = Uniform(random, 1100, 5000), .num_rows = 1});
        Problem problem(
            random,
            {.num_kv_heads = 2, .group = group, .head_dim = head_dim, .chunk_len = chunk_len},
            sequences);
        ExpectNear(problem.Decode(stream()), problem.Expected());
      }
    }
  }
}

TEST_F(AttentionCudaTest, DecodeOfALongSequenceHasManySplits) {
  std::mt19937_64 random = longhaul::testing::FreshRandom();
  Problem problem(random, {.num_kv_heads = 1, .group = 4, .chunk_len = 3072},
                  {{.position_begin = 100'000, .num_rows = 1}});
  ExpectNear(problem.Decode(stream()), problem.Expected());
}

TEST_F(AttentionCudaTest, UnsupportedHeadsAreRefused) {
  const DeviceArray<BFloat16> matrix(4096);
  const DeviceArray<int32_t> table(1);
  PagedAttentionParams p = {
      .q_intra = matrix.data(),
      .block_tables = table.data(),
      .kv_base = reinterpret_cast<uint8_t*>(matrix.data()),
      .out = matrix.data(),
      .num_rows = 1,
      .block_stride_bytes = 1 << 20,
      .num_blocks = 1,
      .layout = {.num_kv_heads = 1, .head_dim = 96, .dtype = KvDtype::kBFloat16},
      .num_q_heads = 1,
      .softmax_scale = 1};
  EXPECT_EQ(PrefillAttentionCuda(p, nullptr, 1, stream()), KernelStatus::kUnimplemented);
  EXPECT_EQ(DecodeAttentionCuda(p, nullptr, 1, nullptr, 1, nullptr, stream()),
            KernelStatus::kUnimplemented);
  p.layout.head_dim = 128;
  p.num_q_heads = 0;
  EXPECT_EQ(PrefillAttentionCuda(p, nullptr, 1, stream()), KernelStatus::kInvalidArgument);
}

}  // namespace
}  // namespace longhaul::kernels
