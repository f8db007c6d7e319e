#include "worker/backend/cpu_backend.h"

#include <cmath>
#include <numeric>
#include <random>

#include "tests/testing/golden.h"
#include "tests/testing/status_matchers.h"

namespace longhaul::worker::backend {
namespace {

using ::longhaul::testing::Golden;
using ::longhaul::testing::MaxAbsDifference;
using ::longhaul::testing::SplitMixUniform;
using ::longhaul::testing::StatusIs;
using ::testing::HasSubstr;

TensorView View(std::vector<float>& values, int64_t rows) {
  return {values.data(), DType::kFloat32, rows, static_cast<int64_t>(values.size()) / rows};
}

// Rotates, stores and attends to one sequence through the backend's ops, in chunks.
class OneSequence {
 public:
  OneSequence(Backend& backend, const RotaryRule& rule, int32_t num_q_heads, KvShape shape,
              int64_t tokens)
      : backend_(backend), rule_(rule), num_q_heads_(num_q_heads), table_((tokens + 255) / 256) {
    std::iota(table_.rbegin(), table_.rend(), 0);
    auto buffer =
        backend.Allocate(backend.KvLayerBlockBytes(shape) * static_cast<int64_t>(table_.size()));
    CHECK(buffer.ok()) << buffer.status();
    cache_ = *std::move(buffer);
    kv_ = {.base = cache_.data(),
           .block_stride_bytes = backend.KvLayerBlockBytes(shape),
           .shape = shape};
  }

  // qkv [T, (Hq + 2 Hkv) D], scale [T]; returns [T, Hq D].
  std::vector<float> Attend(std::vector<float> qkv, const std::vector<float>& scale,
                            int64_t begin) {
    const int64_t rows = static_cast<int64_t>(scale.size());
    const int64_t query_cols = num_q_heads_ * int64_t{rule_.head_dim};
    std::vector<std::vector<float>> queries(3, std::vector<float>(rows * query_cols));
    const RotatedQueries rotated{View(queries[0], rows), View(queries[1], rows),
                                 View(queries[2], rows)};
    std::vector<float> out(rows * query_cols);
    const std::vector<SequenceRows> sequence = {
        {.num_rows = rows, .position_begin = begin, .block_table = table_}};
    EXPECT_OK(
        backend_.PlanRows(rule_, {.sequences = sequence, .query_scale = scale, .ids = {}}, *plan_));
    EXPECT_OK(backend_.RotateAndStore(View(qkv, rows), *plan_, kv_, rotated));
    EXPECT_OK(backend_.Attend(rotated, *plan_, kv_, View(out, rows)));
    return out;
  }

 private:
  Backend& backend_;
  const RotaryRule rule_;
  const int32_t num_q_heads_;
  std::vector<BlockId> table_;
  DeviceBuffer cache_;
  KvLayer kv_;
  const std::unique_ptr<RowPlan> plan_ = backend_.MakeRowPlan();
};

// One case of dca_attention.safetensors; see tests/data/make_dca_golden.py.
struct DcaCase {
  int64_t num_q_heads, num_kv_heads, head_dim, length, temperature, seed, first_row, num_rows;
};

TEST(CpuBackend, AttendsAsTheReferenceOfDualChunkAttentionDoes) {
  const Golden golden("dca_attention.safetensors");
  const std::vector<int32_t> settings = golden.Ints("settings");
  const std::vector<int32_t> cases = golden.Ints("cases");
  const std::vector<int32_t> rows = golden.Ints("rows");
  const std::vector<float> outputs = golden.Floats("outputs");
  const auto backend = MakeCpuBackend(2);
  const double original_max = settings[2];
  const float* expected = outputs.data();
  double worst = 0;
  for (size_t i = 0; i < cases.size(); i += 8) {
    const DcaCase c{cases[i],     cases[i + 1], cases[i + 2], cases[i + 3],
                    cases[i + 4], cases[i + 5], cases[i + 6], cases[i + 7]};
    const RotaryRule rule{.theta = static_cast<double>(settings[3]),
                          .head_dim = static_cast<int32_t>(c.head_dim),
                          .chunk_len = settings[0] - settings[1],
                          .chunk_size = settings[0]};
    const int64_t q_cols = c.num_q_heads * c.head_dim;
    const int64_t kv_cols = c.num_kv_heads * c.head_dim;
    const auto q = SplitMixUniform(c.seed, c.length * q_cols, static_cast<float>(settings[4]));
    const auto k = SplitMixUniform(c.seed + 1, c.length * kv_cols);
    const auto v = SplitMixUniform(c.seed + 2, c.length * kv_cols);
    std::vector<float> qkv;
    std::vector<float> scale;
    for (int64_t row = 0; row < c.length; ++row) {
      qkv.insert(qkv.end(), q.begin() + row * q_cols, q.begin() + (row + 1) * q_cols);
      qkv.insert(qkv.end(), k.begin() + row * kv_cols, k.begin() + (row + 1) * kv_cols);
      qkv.insert(qkv.end(), v.begin() + row * kv_cols, v.begin() + (row + 1) * kv_cols);
      const double tokens = static_cast<double>(c.temperature == 1 ? c.length : row + 1);
      const double f = std::max(1.0, 0.1 * std::log(tokens / original_max) + 1);
      scale.push_back(static_cast<float>(f * f));
    }
    OneSequence sequence(*backend, rule, static_cast<int32_t>(c.num_q_heads),
                         {.num_kv_heads = static_cast<int32_t>(c.num_kv_heads),
                          .head_dim = static_cast<int32_t>(c.head_dim)},
                         c.length);
    const std::vector<float> out = sequence.Attend(qkv, scale, 0);
    double largest = 0;
    double difference = 0;
    for (int64_t row = 0; row < c.num_rows; ++row, expected += q_cols) {
      const float* actual = out.data() + rows[c.first_row + row] * q_cols;
      difference = std::max(difference, MaxAbsDifference(actual, expected, q_cols));
      for (int64_t j = 0; j < q_cols; ++j)
        largest = std::max(largest, std::abs(double{expected[j]}));
    }
    EXPECT_LE(difference / largest, 1e-5)
        << "heads " << c.num_q_heads << "/" << c.num_kv_heads << " length " << c.length
        << " temperature " << c.temperature;
    worst = std::max(worst, difference / largest);
  }
  EXPECT_EQ(expected, outputs.data() + outputs.size());
  std::cout << cases.size() / 8 << " cases: max relative " << worst << "\n";
}

TEST(CpuBackend, AllocatesZeroedAlignedMemory) {
  const auto backend = MakeCpuBackend(1);
  ASSERT_OK_AND_ASSIGN(const DeviceBuffer buffer, backend->Allocate(100));
  EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 64, 0u);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(buffer.data()[i], 0);
  EXPECT_THAT(backend->Allocate(int64_t{1} << 60).status(),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("1152921504606846976")));
}

TEST(CpuBackend, KnowsTheFreeMemory) {
  const int64_t bytes = MakeCpuBackend(1)->FreeMemoryBytes();
  EXPECT_GT(bytes, int64_t{1} << 20);
  EXPECT_LT(bytes, int64_t{1} << 50);
}

TEST(CpuBackend, LinearAddsItsBias) {
  const auto backend = MakeCpuBackend(2);
  std::vector<float> x = {1, 2, 3, 4};             // [2, 2]
  std::vector<float> weight = {1, 0, 0, 1, 1, 1};  // [3, 2]
  std::vector<float> bias = {10, 20, 30};
  std::vector<float> y(6);
  ASSERT_OK(backend->Linear(View(x, 2), {View(weight, 3), View(bias, 1)}, View(y, 2)));
  EXPECT_THAT(y, ::testing::ElementsAre(11, 22, 33, 13, 24, 37));
  ASSERT_OK(backend->Linear(View(x, 2), {View(weight, 3), {}}, View(y, 2)));
  EXPECT_THAT(y, ::testing::ElementsAre(1, 2, 3, 3, 4, 7));
}

// The product as Linear has it, rounded, then added: for rows that fill tiles and others.
TEST(CpuBackend, LinearAddIsLinearThenAdd) {
  const auto backend = MakeCpuBackend(2);
  std::mt19937 random(std::random_device{}());
  std::normal_distribution<float> normal;
  const auto draw = [&](int64_t size) {
    std::vector<float> values(static_cast<size_t>(size));
    for (float& value : values) value = normal(random);
    return values;
  };
  std::vector<float> weight = draw(130 * 33);
  for (const int64_t rows : {1, 500, 48}) {
    std::vector<float> x = draw(rows * 33);
    std::vector<float> y = draw(rows * 130);
    std::vector<float> want = y;
    std::vector<float> product(y.size());
    ASSERT_OK(backend->Linear(View(x, rows), {View(weight, 130), {}}, View(product, rows)));
    for (size_t i = 0; i < want.size(); ++i) want[i] += product[i];
    ASSERT_OK(backend->LinearAdd(View(x, rows), View(weight, 130), View(y, rows)));
    EXPECT_EQ(y, want) << rows;
  }
}

TEST(CpuBackend, RmsNormDividesByTheRootOfTheMeanSquare) {
  const auto backend = MakeCpuBackend(1);
  std::vector<float> x = {3, 4};
  std::vector<float> weight = {1, 2};
  std::vector<float> out(2);
  ASSERT_OK(backend->RmsNorm(View(x, 1), View(weight, 1), 1e-6, View(out, 1)));
  const float norm = std::sqrt(12.5f);
  EXPECT_NEAR(out[0], 3 / norm, 1e-5);
  EXPECT_NEAR(out[1], 8 / norm, 1e-5);
}

TEST(CpuBackend, SiluMulTakesGateAndUpFromOneRow) {
  const auto backend = MakeCpuBackend(1);
  std::vector<float> gate_up = {0, 1, 3, 4};
  std::vector<float> out(2);
  ASSERT_OK(backend->SiluMul(View(gate_up, 1), View(out, 1)));
  EXPECT_EQ(out[0], 0);
  EXPECT_NEAR(out[1], 4 / (1 + std::exp(-1.0)), 1e-6);
}

TEST(CpuBackend, CopiesColumnsBesideOthers) {
  const auto backend = MakeCpuBackend(1);
  std::vector<float> part = {1, 2, 3, 4};
  std::vector<float> whole(8, -1);
  ASSERT_OK(backend->CopyColumns(View(part, 2), View(whole, 2), 1));
  EXPECT_EQ(whole, (std::vector<float>{-1, 1, 2, -1, -1, 3, 4, -1}));
  ASSERT_OK(backend->CopyColumns(View(part, 2), View(whole, 2), 2));
  EXPECT_EQ(whole, (std::vector<float>{-1, 1, 1, 2, -1, 3, 3, 4}));
  for (const int64_t column : {-1, 3}) {
    EXPECT_THAT(backend->CopyColumns(View(part, 2), View(whole, 2), column),
                StatusIs(absl::StatusCode::kInternal, HasSubstr("[2, 2] and [2, 4]")));
  }
  EXPECT_THAT(backend->CopyColumns(View(part, 1), View(whole, 2), 0),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("copy_columns")));
}

TEST(CpuBackend, AnIdOutsideTheTableIsAnErrorWithItsSizes) {
  const auto backend = MakeCpuBackend(1);
  std::vector<float> table(6);
  std::vector<float> out(2);
  const std::vector<TokenId> ids = {3};
  const std::vector<BlockId> block_table = {0};
  const std::vector<SequenceRows> sequence = {{.num_rows = 1, .block_table = block_table}};
  const std::vector<float> scale = {1};
  const auto plan = backend->MakeRowPlan();
  ASSERT_OK(backend->PlanRows({.theta = 1e4, .head_dim = 2},
                              {.sequences = sequence, .query_scale = scale, .ids = ids}, *plan));
  EXPECT_THAT(backend->Embed(View(table, 3), *plan, View(out, 1)),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("[3, 2]")));
}

TEST(CpuBackend, AHeadDimWithoutKernelIsUnimplemented) {
  const auto backend = MakeCpuBackend(1);
  const RotaryRule rule{.theta = 1e4, .head_dim = 48};
  const KvShape shape{.num_kv_heads = 1, .head_dim = 48};
  ASSERT_OK_AND_ASSIGN(const DeviceBuffer cache,
                       backend->Allocate(backend->KvLayerBlockBytes(shape)));
  std::vector<float> rows(48);
  const TensorView view = View(rows, 1);
  const std::vector<BlockId> block_table = {0};
  const std::vector<SequenceRows> sequence = {{.num_rows = 1, .block_table = block_table}};
  const std::vector<float> scale = {1};
  const auto plan = backend->MakeRowPlan();
  ASSERT_OK(
      backend->PlanRows(rule, {.sequences = sequence, .query_scale = scale, .ids = {}}, *plan));
  EXPECT_THAT(backend->Attend({view, view, view}, *plan,
                              {.base = cache.data(),
                               .block_stride_bytes = backend->KvLayerBlockBytes(shape),
                               .shape = shape},
                              view),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("head_dim 48")));
}

TEST(CpuBackend, APlanOutlivesWhatItWasMadeFrom) {
  const auto backend = MakeCpuBackend(1);
  const uint32_t seed = std::random_device{}();
  std::cout << "seed " << seed << "\n";
  const RotaryRule rule{.theta = 1e4, .head_dim = 64, .chunk_len = 256, .chunk_size = 384};
  const KvShape shape{.num_kv_heads = 1, .head_dim = 64};
  constexpr int64_t kTokens = 600;  // reaches the third segment
  const int64_t block_bytes = backend->KvLayerBlockBytes(shape);
  std::vector<float> qkv = SplitMixUniform(seed, kTokens * 192);
  std::vector<float> outputs[2];
  for (const bool change : {false, true}) {
    ASSERT_OK_AND_ASSIGN(const DeviceBuffer cache, backend->Allocate(3 * block_bytes));
    const KvLayer kv{.base = cache.data(), .block_stride_bytes = block_bytes, .shape = shape};
    std::vector<BlockId> block_table = {2, 0, 1};
    std::vector<float> scale(kTokens, 1.25f);
    std::vector<SequenceRows> sequence = {{.num_rows = kTokens, .block_table = block_table}};
    const auto plan = backend->MakeRowPlan();
    ASSERT_OK(
        backend->PlanRows(rule, {.sequences = sequence, .query_scale = scale, .ids = {}}, *plan));
    if (change) {
      block_table = {1, 1, 1};
      scale.assign(kTokens, 7);
      sequence = {};
    }
    std::vector<std::vector<float>> queries(3, std::vector<float>(kTokens * 64));
    const RotatedQueries rotated{View(queries[0], kTokens), View(queries[1], kTokens),
                                 View(queries[2], kTokens)};
    outputs[change].resize(kTokens * 64);
    ASSERT_OK(backend->RotateAndStore(View(qkv, kTokens), *plan, kv, rotated));
    ASSERT_OK(backend->Attend(rotated, *plan, kv, View(outputs[change], kTokens)));
  }
  EXPECT_EQ(outputs[0], outputs[1]);
}

TEST(CpuBackend, APlanMayBeFilledAgainWithFewerRows) {
  const auto backend = MakeCpuBackend(1);
  std::vector<float> table = {0, 1, 2, 3, 4, 5};
  const std::vector<BlockId> block_table = {0};
  const std::vector<float> scale = {1, 1};
  const auto plan = backend->MakeRowPlan();
  const auto embed = [&](std::vector<TokenId> ids) {
    const int64_t rows = static_cast<int64_t>(ids.size());
    std::vector<float> out(static_cast<size_t>(rows) * 2);
    const std::vector<SequenceRows> sequence = {{.num_rows = rows, .block_table = block_table}};
    EXPECT_OK(backend->PlanRows(
        {.theta = 1e4, .head_dim = 2},
        {.sequences = sequence, .query_scale = std::span(scale).first(ids.size()), .ids = ids},
        *plan));
    EXPECT_OK(backend->Embed(View(table, 3), *plan, View(out, rows)));
    return out;
  };
  EXPECT_EQ(embed({2, 1}), (std::vector<float>{4, 5, 2, 3}));
  EXPECT_EQ(embed({0}), (std::vector<float>{0, 1}));
}

TEST(CpuBackend, LogprobsAreThoseThatSamplingReports) {
  const auto backend = MakeCpuBackend(2);
  const uint32_t seed = std::random_device{}();
  std::cout << "seed " << seed << "\n";
  std::vector<float> logits = SplitMixUniform(seed, size_t{5} * 300, 9.0f);
  const SamplingParams params{.temperature = 2, .seed = seed, .top_logprobs = 7};
  std::vector<SampleRow> samples;
  for (int64_t i = 0; i < 5; ++i) {
    samples.push_back({.logits = View(logits, 5).Rows(i, 1), .params = &params});
  }
  const auto sampled = backend->Sample(samples);
  std::vector<LogprobsRow> rows;
  for (size_t i = 0; i < 5; ++i) {
    ASSERT_OK(sampled[i]);
    rows.push_back({.logits = samples[i].logits, .token = sampled[i]->token, .num_top = 7});
  }
  const auto tokens = backend->Logprobs(rows);
  ASSERT_EQ(tokens.size(), 5u);
  for (size_t i = 0; i < 5; ++i) {
    ASSERT_OK(tokens[i]);
    EXPECT_EQ(tokens[i]->token, sampled[i]->token);
    EXPECT_EQ(tokens[i]->logprob, sampled[i]->logprob);
    ASSERT_EQ(tokens[i]->top_logprobs.size(), 7u);
    for (size_t t = 0; t < 7; ++t) {
      EXPECT_EQ(tokens[i]->top_logprobs[t].token, sampled[i]->top_logprobs[t].token);
      EXPECT_EQ(tokens[i]->top_logprobs[t].logprob, sampled[i]->top_logprobs[t].logprob);
    }
  }
}

TEST(CpuBackend, OneRowsNanHarmsNoOtherRowsLogprobs) {
  const auto backend = MakeCpuBackend(2);
  std::vector<float> logits = {0, 5, 1, 0, NAN, 0, 0, 0, 9};
  std::vector<LogprobsRow> rows;
  for (int64_t i = 0; i < 3; ++i) rows.push_back({.logits = View(logits, 3).Rows(i, 1)});
  rows.push_back({.logits = View(logits, 3).Rows(2, 1), .token = 3});
  const auto tokens = backend->Logprobs(rows);
  ASSERT_EQ(tokens.size(), 4u);
  ASSERT_OK(tokens[0]);
  EXPECT_TRUE(tokens[0]->top_logprobs.empty());
  EXPECT_THAT(tokens[1].status(), StatusIs(absl::StatusCode::kInternal, HasSubstr("NaN")));
  ASSERT_OK(tokens[2]);
  EXPECT_THAT(tokens[3].status(), StatusIs(absl::StatusCode::kInternal, HasSubstr("vocabulary 3")));
}

TEST(CpuBackend, OneRowsNanHarmsNoOtherRow) {
  const auto backend = MakeCpuBackend(2);
  std::vector<float> logits = {0, 5, 1, 0, NAN, 0, 0, 0, 9};
  const SamplingParams greedy{.temperature = 0, .top_logprobs = 2};
  std::vector<SampleRow> rows;
  for (int64_t i = 0; i < 3; ++i) {
    rows.push_back({.logits = View(logits, 3).Rows(i, 1), .params = &greedy});
  }
  const auto tokens = backend->Sample(rows);
  ASSERT_EQ(tokens.size(), 3u);
  ASSERT_OK(tokens[0]);
  EXPECT_EQ(tokens[0]->token, 1);
  EXPECT_EQ(tokens[0]->top_logprobs.size(), 2u);
  EXPECT_THAT(tokens[1].status(), StatusIs(absl::StatusCode::kInternal, HasSubstr("NaN")));
  ASSERT_OK(tokens[2]);
  EXPECT_EQ(tokens[2]->token, 2);
}

}  // namespace
}  // namespace longhaul::worker::backend
