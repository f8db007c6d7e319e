#include "kernels/sampling/sampling_cuda.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <set>
#include <utility>
#include <vector>

#include "tests/testing/cuda_testing.h"

namespace longhaul::kernels {
namespace {

using longhaul::testing::CudaTest;
using longhaul::testing::DeviceArray;
using longhaul::testing::FreshRandom;
using longhaul::testing::Near;
using longhaul::testing::Normal;
using longhaul::testing::Uniform;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int32_t kQwenVocab = 152'064;

// A row of logits and what a request asks for, on the host.
struct Row {
  explicit Row(std::vector<float> values)
      : logits(std::move(values)), seen((logits.size() + 63) / 64), counts(logits.size()) {
    params.vocab_size = static_cast<int32_t>(logits.size());
  }

  void MarkSeen(int64_t id, int32_t count) {
    seen[id / 64] |= uint64_t{1} << (id % 64);
    counts[id] += count;
  }

  // As SamplingCpu and SamplingRef take it.
  SamplingParams Host() const {
    SamplingParams p = params;
    p.logits = logits.data();
    p.seen = seen.data();
    p.counts = counts.data();
    p.bias_ids = bias_ids.data();
    p.bias_values = bias_values.data();
    p.num_bias = static_cast<int32_t>(bias_ids.size());
    p.banned_ids = banned.data();
    p.num_banned = static_cast<int32_t>(banned.size());
    return p;
  }

  std::vector<float> logits;
  SamplingParams params;
  std::vector<uint64_t> seen;
  std::vector<int32_t> counts;
  std::vector<int32_t> bias_ids;
  std::vector<float> bias_values;
  std::vector<int32_t> banned;
};

// Host arrays of all rows in one array of the device.
template <typename T>
class Pool {
 public:
  template <typename Get>
  Pool(const std::vector<Row>& rows, Get get) : array_(Total(rows, get)) {
    std::vector<T> all;
    for (const Row& row : rows) {
      offsets_.push_back(static_cast<int64_t>(all.size()));
      all.insert(all.end(), get(row).begin(), get(row).end());
    }
    array_.Upload(all);
  }
  T* Of(size_t row) const { return array_.data() + offsets_[row]; }
  std::vector<T> Download(size_t row, size_t size) const {
    const std::vector<T> all = array_.Download();
    return {all.begin() + offsets_[row], all.begin() + offsets_[row] + static_cast<int64_t>(size)};
  }

 private:
  template <typename Get>
  static int64_t Total(const std::vector<Row>& rows, Get get) {
    size_t total = 1;
    for (const Row& row : rows) total += get(row).size();
    return static_cast<int64_t>(total);
  }
  std::vector<int64_t> offsets_;
  DeviceArray<T> array_;
};

class SamplingCudaTest : public CudaTest {
 protected:
  // Rows of one vocabulary. `spoil` may change what the device is given. Marks in the rows' seen
  // and counts are those of the device afterwards.
  template <typename Spoil>
  std::vector<SamplingCudaResult> Sample(std::vector<Row>& rows, Spoil spoil) {
    const int32_t vocab = rows[0].params.vocab_size;
    const Pool<float> logits(
        rows, [](const Row& row) -> auto& { return row.logits; });
    const Pool<uint64_t> seen(
        rows, [](const Row& row) -> auto& { return row.seen; });
    const Pool<int32_t> counts(
        rows, [](const Row& row) -> auto& { return row.counts; });
    const Pool<int32_t> bias_ids(
        rows, [](const Row& row) -> auto& { return row.bias_ids; });
    const Pool<float> bias_values(
        rows, [](const Row& row) -> auto& { return row.bias_values; });
    const Pool<int32_t> banned(
        rows, [](const Row& row) -> auto& { return row.banned; });
    std::vector<SamplingCudaRow> of_device;
    for (size_t i = 0; i < rows.size(); ++i) {
      const SamplingParams& p = rows[i].params;
      of_device.push_back({.logits = logits.Of(i),
                           .temperature = p.temperature,
                           .top_k = p.top_k,
                           .top_p = p.top_p,
                           .min_p = p.min_p,
                           .repetition_penalty = p.repetition_penalty,
                           .presence_penalty = p.presence_penalty,
                           .frequency_penalty = p.frequency_penalty,
                           .num_top_logprobs = p.num_top_logprobs,
                           .uniform = SamplingUniform(p.seed, p.token_index),
                           .seen = seen.Of(i),
                           .counts = counts.Of(i),
                           .bias_ids = bias_ids.Of(i),
                           .bias_values = bias_values.Of(i),
                           .banned_ids = banned.Of(i),
                           .num_bias = static_cast<int32_t>(rows[i].bias_ids.size()),
                           .num_banned = static_cast<int32_t>(rows[i].banned.size())});
      spoil(i, of_device.back());
    }
    const DeviceArray<SamplingCudaRow> device_rows(of_device);
    const int32_t num_rows = static_cast<int32_t>(rows.size());
    const DeviceArray<uint8_t> workspace(
        static_cast<int64_t>(SamplingCudaWorkspaceBytes(vocab, num_rows)));
    const DeviceArray<SamplingCudaResult> results(num_rows);
    EXPECT_EQ(SamplingCuda({.rows = device_rows.data(),
                            .num_rows = num_rows,
                            .vocab_size = vocab,
                            .workspace = workspace.data(),
                            .results = results.data()},
                           stream()),
              KernelStatus::kOk);
    Sync();
    for (size_t i = 0; i < rows.size(); ++i) {
      rows[i].seen = seen.Download(i, rows[i].seen.size());
      rows[i].counts = counts.Download(i, rows[i].counts.size());
    }
    return results.Download();
  }
  std::vector<SamplingCudaResult> Sample(std::vector<Row>& rows) {
    return Sample(rows, [](size_t, SamplingCudaRow&) {});
  }
  SamplingCudaResult SampleOne(const Row& row) {
    std::vector<Row> rows = {row};
    return Sample(rows)[0];
  }
};

// The tokens that a sampler may choose whose sums of probabilities are wrong by 1e-6: those of
// top_p, min_p and the draw's uniform moved by so much. Sorts, and shares nothing with the kernels.
std::set<int32_t> TokensAtBorders(const Row& row) {
  constexpr double kMoves[] = {-1e-6, 0, 1e-6};
  const SamplingParams p = row.Host();
  std::vector<std::pair<double, int32_t>> sorted;  // negative score, id
  for (int32_t id = 0; id < p.vocab_size; ++id) {
    double score = p.logits[id];
    if ((p.seen[id / 64] >> (id % 64) & 1) != 0) {
      score = score < 0 ? score * p.repetition_penalty : score / p.repetition_penalty;
    }
    if (p.counts[id] > 0) {
      score -= double{p.presence_penalty} + double{p.frequency_penalty} * p.counts[id];
    }
    for (int32_t i = 0; i < p.num_bias; ++i) {
      if (p.bias_ids[i] == id) score += p.bias_values[i];
    }
    const bool banned = std::find(row.banned.begin(), row.banned.end(), id) != row.banned.end();
    if (!banned && score > -HUGE_VAL) sorted.emplace_back(-score, id);
  }
  std::sort(sorted.begin(), sorted.end());
  if (p.top_k > 0 && sorted.size() > static_cast<size_t>(p.top_k)) {
    sorted.resize(static_cast<size_t>(p.top_k));
  }
  const auto weight = [&](const auto& entry) {
    return std::exp((sorted[0].first - entry.first) / p.temperature);
  };
  double total = 0;
  for (const auto& entry : sorted) total += weight(entry);

  std::set<int32_t> tokens;
  for (const double top_p_move : kMoves) {
    for (const double min_p_move : kMoves) {
      std::vector<std::pair<int32_t, double>> kept;
      double before = 0;
      for (const auto& entry : sorted) {
        const double w = weight(entry);
        if (p.top_p < 1 && !kept.empty() && before / total >= p.top_p + top_p_move) break;
        before += w;
        if (p.min_p == 0 || kept.empty() || w >= p.min_p * (1 + min_p_move)) {
          kept.emplace_back(entry.second, w);
        }
      }
      std::sort(kept.begin(), kept.end());
      double kept_total = 0;
      for (const auto& entry : kept) kept_total += entry.second;
      for (const double u_move : kMoves) {
        const double u = SamplingUniform(p.seed, p.token_index) + u_move;
        double sum = 0;
        int32_t token = kept.back().first;
        for (const auto& entry : kept) {
          sum += entry.second;
          if (sum <= u * kept_total || entry.second == 0) continue;
          token = entry.first;
          break;
        }
        tokens.insert(token);
      }
    }
  }
  return tokens;
}

// Of every mixture of what a request can ask for.
Row RandomRow(std::mt19937_64& random, int64_t vocab) {
  const auto one_of = [&](std::initializer_list<float> choices) {
    return choices.begin()[Uniform(random, 0, static_cast<int64_t>(choices.size()) - 1)];
  };
  const auto id = [&] { return static_cast<int32_t>(Uniform(random, 0, vocab - 1)); };
  Row row(Normal(random, vocab, one_of({0.1f, 2, 10})));
  for (int64_t t = 0; t < std::min<int64_t>(vocab / 4, 20'000); ++t) {
    row.MarkSeen(id(), static_cast<int32_t>(Uniform(random, 0, 2)));
    row.logits[id()] = one_of({1, -kInfinity});  // ties, masks
  }
  row.logits[id()] = 1;
  SamplingParams& p = row.params;
  p.temperature = one_of({0, 0.3f, 0.7f, 1, 3});
  p.top_k = static_cast<int32_t>(one_of({0, 0, 1, 5, 20, 5000}));
  p.top_p = one_of({1, 1, 0.05f, 0.8f, 0.97f});
  p.min_p = one_of({0, 0, 0.05f, 0.5f, 1});
  p.repetition_penalty = one_of({1, 1.05f, 2, 0.5f});
  p.presence_penalty = one_of({0, 0.5f, -1});
  p.frequency_penalty = one_of({0, 0.25f, -0.5f});
  p.seed = random();
  p.token_index = random();
  p.num_top_logprobs = static_cast<int32_t>(Uniform(random, 0, kMaxTopLogprobs));
  row.bias_ids.resize(Uniform(random, 0, 3));
  for (int32_t& biased : row.bias_ids) biased = id();
  if (row.bias_ids.size() > 2) row.bias_ids[2] = row.bias_ids[0];  // biases of one id add up
  row.bias_values = Normal(random, static_cast<int64_t>(row.bias_ids.size()), 5);
  row.banned.resize(Uniform(random, 0, 2));
  for (int32_t& banned : row.banned) banned = id();
  return row;
}

void ExpectSameLogprobs(const Logprobs& got, const Logprobs& want) {
  ASSERT_EQ(got.num_top, want.num_top);
  std::vector<float> got_values = {got.logprob};
  std::vector<float> want_values = {want.logprob};
  for (int32_t i = 0; i < want.num_top; ++i) {
    ASSERT_EQ(got.top_ids[i], want.top_ids[i]) << "place " << i;
    got_values.push_back(got.top_logprobs[i]);
    want_values.push_back(want.top_logprobs[i]);
  }
  for (size_t i = 0; i < want_values.size(); ++i) {
    if (want_values[i] != -kInfinity) continue;
    ASSERT_EQ(got_values[i], -kInfinity);
    got_values[i] = want_values[i] = 0;
  }
  EXPECT_TRUE(Near(got_values, want_values, longhaul::testing::kLogprobTolerance));
}

class SamplingCudaVocabTest : public SamplingCudaTest,
                              public ::testing::WithParamInterface<int32_t> {};

TEST_P(SamplingCudaVocabTest, ChoosesAsTheCpuDoesOverRandomRequests) {
  const int32_t vocab = GetParam();
  std::mt19937_64 random = FreshRandom();
  const int num_rows = vocab > 10'000 ? 80 : 150;
  const int num_batches = vocab > 10'000 ? 2 : 8;
  std::vector<double> workspace(SamplingWorkspaceBytes(vocab) / sizeof(double) + 1);
  int chosen = 0;
  int at_borders = 0;
  for (int batch = 0; batch < num_batches; ++batch) {
    std::vector<Row> rows;
    for (int i = 0; i < num_rows; ++i) rows.push_back(RandomRow(random, vocab));
    const std::vector<Row> before = rows;
    const std::vector<SamplingCudaResult> got = Sample(rows);
    for (int i = 0; i < num_rows; ++i) {
      SCOPED_TRACE(::testing::Message() << "batch " << batch << " row " << i);
      SamplingParams p = before[i].Host();
      p.workspace = workspace.data();
      SamplingResult want;
      ASSERT_EQ(got[i].status, SamplingCpu(p, &want));
      Row expected = before[i];
      if (got[i].status == KernelStatus::kOk) {
        ++chosen;
        const int32_t token = got[i].result.token;
        SamplingResult reference;
        ASSERT_EQ(SamplingRef(p, &reference), KernelStatus::kOk);
        if (token != want.token || token != reference.token) {
          ++at_borders;
          ASSERT_GT(p.temperature, 0);
          ASSERT_TRUE(TokensAtBorders(before[i]).contains(token))
              << token << ", the CPU's " << want.token << ", the reference's " << reference.token;
        }
        if (token == want.token) ExpectSameLogprobs(got[i].result, want);
        expected.MarkSeen(token, 1);
      }
      ASSERT_EQ(rows[i].seen, expected.seen);
      ASSERT_EQ(rows[i].counts, expected.counts);
    }
  }
  // Draws within 1e-6 of a border are rare; a thousandth of all would be many.
  EXPECT_LE(at_borders, 1 + chosen / 1000);
}
INSTANTIATE_TEST_SUITE_P(Vocabularies, SamplingCudaVocabTest,
                         ::testing::Values(1, 2, 31, 2048, 4096, 4097, kQwenVocab));

TEST_F(SamplingCudaTest, OfEqualsTheLowestIdsStay) {
  std::mt19937_64 random = FreshRandom();
  Row flat(std::vector<float>(kQwenVocab, 3));
  flat.params.seed = random();
  Row top_k = flat;
  top_k.params.top_k = 1001;
  Row top_p = flat;
  top_p.params.top_p = 0.25f;
  Row both = top_k;
  both.params.top_p = 0.5f;
  std::vector<Row> rows;
  for (const Row& row : {top_k, top_p, both}) {
    for (uint64_t i = 0; i < 40; ++i) {
      rows.push_back(row);
      rows.back().params.token_index = i;
    }
  }
  const std::vector<SamplingCudaResult> got = Sample(rows);
  const int32_t kept[] = {1001, kQwenVocab / 4, 501};
  for (size_t i = 0; i < rows.size(); ++i) {
    ASSERT_EQ(got[i].status, KernelStatus::kOk);
    const double u = SamplingUniform(rows[i].params.seed, rows[i].params.token_index);
    const int32_t kept_tokens = kept[i / 40];
    EXPECT_EQ(got[i].result.token, static_cast<int32_t>(u * kept_tokens)) << i;
  }
}

TEST_F(SamplingCudaTest, GreedyTakesTheLowestIdOfEqualsAndZeroHasNoSign) {
  EXPECT_EQ(SampleOne([] {
              Row row({-1, -0.0f, 0.0f, 0.0f});
              row.params.temperature = 0;
              return row;
            }())
                .result.token,
            1);
}

TEST_F(SamplingCudaTest, TinyTemperaturesAreGreedyAndHugeOnesUniform) {
  Row row({30, 31, -20});
  row.params.temperature = 1e-37f;
  row.params.top_p = 0.99f;
  EXPECT_EQ(SampleOne(row).result.token, 1);
  row.params.temperature = 1e30f;
  row.params.top_p = 1;
  std::set<int32_t> tokens;
  for (uint64_t i = 0; i < 60; ++i) {
    row.params.token_index = i;
    tokens.insert(SampleOne(row).result.token);
  }
  EXPECT_EQ(tokens.size(), 3u);
}

TEST_F(SamplingCudaTest, ARowsFailureIsItsOwnAndMarksNothing) {
  const float nan = std::nanf("");
  std::vector<Row> rows(8, Row({1, 2, 3, 0}));
  for (Row& row : rows) row.params.num_top_logprobs = 2;
  rows[1].logits = {0, nan, 1, 2};
  rows[2].logits = {0, kInfinity, 1, 2};
  rows[3].logits = std::vector<float>(4, -kInfinity);
  rows[4].banned = {0, 1, 2, 3};
  rows[5].logits = {-kInfinity, 1, -kInfinity, -kInfinity};
  rows[6].params.frequency_penalty = -3e38f;  // 3 times that is +inf
  rows[6].MarkSeen(1, 3);
  const std::vector<Row> before = rows;
  const std::vector<SamplingCudaResult> got = Sample(rows);
  const KernelStatus want[] = {KernelStatus::kOk,          KernelStatus::kNotFinite,
                               KernelStatus::kNotFinite,   KernelStatus::kNotFinite,
                               KernelStatus::kNoCandidate, KernelStatus::kOk,
                               KernelStatus::kNotFinite,   KernelStatus::kOk};
  for (size_t i = 0; i < rows.size(); ++i) {
    EXPECT_EQ(got[i].status, want[i]) << i;
    if (want[i] == KernelStatus::kOk) continue;
    EXPECT_EQ(got[i].result.token, -1) << i;
    EXPECT_EQ(got[i].result.num_top, 0) << i;
    EXPECT_EQ(rows[i].seen, before[i].seen) << i;
    EXPECT_EQ(rows[i].counts, before[i].counts) << i;
  }
  EXPECT_EQ(got[5].result.token, 1);
}

TEST_F(SamplingCudaTest, RefusesParametersOutsideTheirRange) {
  const struct {
    const char* name;
    void (*spoil)(SamplingCudaRow&);
  } cases[] = {
      {"no logits", [](SamplingCudaRow& row) { row.logits = nullptr; }},
      {"negative temperature", [](SamplingCudaRow& row) { row.temperature = -1; }},
      {"NaN temperature", [](SamplingCudaRow& row) { row.temperature = std::nanf(""); }},
      {"top_p of 0", [](SamplingCudaRow& row) { row.top_p = 0; }},
      {"top_p above 1", [](SamplingCudaRow& row) { row.top_p = 1.5f; }},
      {"min_p above 1", [](SamplingCudaRow& row) { row.min_p = 1.5f; }},
      {"negative top_k", [](SamplingCudaRow& row) { row.top_k = -1; }},
      {"no repetition penalty", [](SamplingCudaRow& row) { row.repetition_penalty = 0; }},
      {"infinite penalty", [](SamplingCudaRow& row) { row.presence_penalty = kInfinity; }},
      {"too many logprobs", [](SamplingCudaRow& row) { row.num_top_logprobs = 21; }},
      {"uniform of 1", [](SamplingCudaRow& row) { row.uniform = 1; }},
      {"bias without ids", [](SamplingCudaRow& row) { row.bias_ids = nullptr; }},
      {"id outside", [](SamplingCudaRow& row) { row.num_banned = 1; }},
  };
  std::vector<Row> rows(std::size(cases) + 1, Row({1, 2}));
  for (Row& row : rows) {
    row.bias_ids = {1};
    row.bias_values = {1};
  }
  rows[12].banned = {2};
  const std::vector<SamplingCudaResult> got = Sample(rows, [&](size_t i, SamplingCudaRow& row) {
    if (i < std::size(cases)) cases[i].spoil(row);
  });
  for (size_t i = 0; i < std::size(cases); ++i) {
    EXPECT_EQ(got[i].status, KernelStatus::kInvalidArgument) << cases[i].name;
  }
  EXPECT_EQ(got.back().status, KernelStatus::kOk);
}

TEST_F(SamplingCudaTest, ARowsBitsDependOnThatRowAlone) {
  std::mt19937_64 random = FreshRandom();
  std::vector<Row> rows;
  for (int i = 0; i < 70; ++i) rows.push_back(RandomRow(random, 5000));  // more than one turn
  const std::vector<Row> before = rows;
  const std::vector<SamplingCudaResult> whole = Sample(rows);
  for (const size_t i : {0, 3, 63, 64, 69}) {
    const SamplingCudaResult alone = SampleOne(before[i]);
    using Bytes = std::array<uint8_t, sizeof(SamplingCudaResult)>;
    EXPECT_EQ(std::bit_cast<Bytes>(alone), std::bit_cast<Bytes>(whole[i])) << i;
  }
}

TEST_F(SamplingCudaTest, MarksTheTokensOfAPrompt) {
  std::mt19937_64 random = FreshRandom();
  const int32_t vocab = 1000;
  std::vector<int32_t> ids(5000);
  for (int32_t& id : ids) id = static_cast<int32_t>(Uniform(random, 0, 700));
  ids[17] = -1;
  ids[18] = vocab;
  Row want(std::vector<float>(vocab, 0));
  want.MarkSeen(999, 0);  // was there before
  const DeviceArray<int32_t> device_ids(ids);
  const DeviceArray<uint64_t> seen(want.seen);
  const DeviceArray<int32_t> counts(want.counts);
  for (const int32_t id : ids) {
    if (id >= 0 && id < vocab) want.MarkSeen(id, 1);
  }
  EXPECT_EQ(SamplingSeenCuda({.ids = device_ids.data(),
                              .num_ids = device_ids.size(),
                              .vocab_size = vocab,
                              .seen = seen.data(),
                              .counts = counts.data()},
                             stream()),
            KernelStatus::kOk);
  Sync();
  EXPECT_EQ(seen.Download(), want.seen);
  EXPECT_EQ(counts.Download(), want.counts);
}

TEST_F(SamplingCudaTest, RefusesSizesOutsideTheContract) {
  EXPECT_EQ(SamplingCuda({.num_rows = 0, .vocab_size = 5}, stream()), KernelStatus::kOk);
  EXPECT_EQ(SamplingCuda({.num_rows = 1, .vocab_size = 5}, stream()),
            KernelStatus::kInvalidArgument);
  EXPECT_EQ(SamplingCuda({.num_rows = 0, .vocab_size = 0}, stream()),
            KernelStatus::kInvalidArgument);
  EXPECT_EQ(SamplingCuda({.num_rows = 0, .vocab_size = kMaxCudaVocab + 1}, stream()),
            KernelStatus::kInvalidArgument);
  EXPECT_EQ(SamplingSeenCuda({.num_ids = -1, .vocab_size = 5}, stream()),
            KernelStatus::kInvalidArgument);
}

}  // namespace
}  // namespace longhaul::kernels
