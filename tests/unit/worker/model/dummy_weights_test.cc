#include "worker/model/dummy_weights.h"

#include <cmath>
#include <complex>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "common/logging.h"
#include "tests/testing/forwarding_backend.h"
#include "tests/testing/status_matchers.h"
#include "worker/backend/cpu_backend.h"
#include "worker/model/qwen2.h"
#include "worker/rank/kv_cache.h"

namespace longhaul::worker::model {
namespace {

using ::longhaul::testing::ForwardingBackend;
using ::longhaul::testing::StatusIs;
using ::testing::HasSubstr;

constexpr ModelConfig kConfig = {.num_layers = 3,
                                 .hidden_size = 256,
                                 .intermediate_size = 160,
                                 .num_heads = 6,
                                 .num_kv_heads = 2,
                                 .head_dim = 128,
                                 .vocab_size = 4001,
                                 .max_position_embeddings = 1'010'000,
                                 .rope_theta = 1e7,
                                 .rms_norm_eps = 1e-6};
constexpr int64_t kFrequencies = 64;
constexpr int64_t kSinks = 21;  // ids 0, 200, ..., 4000
// Nothing is drawn afresh here, so that averages may be held to a deviation or two of what they
// would be held to otherwise.
constexpr DummyRecipe kRecipe;

double Omega(int64_t frequency) {
  return std::pow(kConfig.rope_theta, -static_cast<double>(frequency) / kFrequencies);
}

// A head's part of a row, as complex numbers.
using Head = std::vector<std::complex<double>>;
Head HeadOf(const float* row, int64_t head) {
  Head numbers;
  for (int64_t f = 0; f < kFrequencies; ++f) {
    const float* at = row + head * kConfig.head_dim + f;
    numbers.emplace_back(at[0], at[kFrequencies]);
  }
  return numbers;
}

// One row of qkv as heads: those of q, then those of k.
struct Row {
  std::vector<Head> q, k;
};
Row RowOf(const float* qkv) {
  Row row;
  for (int64_t head = 0; head < kConfig.num_heads; ++head) row.q.push_back(HeadOf(qkv, head));
  for (int64_t head = 0; head < kConfig.num_kv_heads; ++head) {
    row.k.push_back(HeadOf(qkv, kConfig.num_heads + head));
  }
  return row;
}

// q at a distance behind k: what attention takes the softmax of.
double Logit(const Head& q, const Head& k, double distance) {
  double sum = 0;
  for (int64_t f = 0; f < kFrequencies; ++f) {
    const std::complex<double> product = q[f] * std::conj(k[f]);
    sum += distance == 0 ? product.real() : (product * std::polar(1.0, Omega(f) * distance)).real();
  }
  return sum / std::sqrt(double{kConfig.head_dim});
}

Head MeanOf(const std::vector<Row>& rows, std::vector<Head> Row::*heads, size_t head) {
  Head mean(kFrequencies);
  for (const Row& row : rows) {
    for (size_t f = 0; f < mean.size(); ++f) {
      mean[f] += (row.*heads)[head][f] / static_cast<double>(rows.size());
    }
  }
  return mean;
}

bool IsDistant(int64_t frequency) { return frequency % 3 == 2; }

// By how much the logits of sinks exceed those of other keys at the same distance, on average over
// queries and keys, head by head. Logits are linear in both.
std::vector<double> SinkLogits(const std::vector<Row>& sinks, const std::vector<Row>& others,
                               double distance) {
  std::vector<double> differences;
  for (size_t head = 0; head < static_cast<size_t>(kConfig.num_heads); ++head) {
    const Head query = MeanOf(others, &Row::q, head);
    differences.push_back(Logit(query, MeanOf(sinks, &Row::k, head / 3), distance) -
                          Logit(query, MeanOf(others, &Row::k, head / 3), distance));
  }
  return differences;
}
double Mean(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

// Keeps what goes into attention, layer by layer.
class WatchedBackend final : public ForwardingBackend {
 public:
  WatchedBackend() : ForwardingBackend(backend::MakeCpuBackend(1)) {}
  absl::Status RotateAndStore(TensorView qkv, const RowPlan& plan, const KvLayer& kv,
                              const RotatedQueries& queries) override {
    qkv_.emplace_back(qkv.f32(), qkv.f32() + qkv.size());
    return ForwardingBackend::RotateAndStore(qkv, plan, kv, queries);
  }
  // Of the layer: the rows [begin, end).
  std::vector<Row> Rows(size_t layer, int64_t begin, int64_t end) const {
    const int64_t cols = int64_t{kConfig.num_heads + 2 * kConfig.num_kv_heads} * kConfig.head_dim;
    std::vector<Row> rows;
    for (int64_t row = begin; row < end; ++row) rows.push_back(RowOf(&qkv_[layer][row * cols]));
    return rows;
  }

 private:
  std::vector<std::vector<float>> qkv_;
};

class DummyWeightsTest : public ::testing::Test {
 protected:
  Weights Make(const WeightRange& range, const ModelConfig& config = kConfig) {
    auto weights = MakeDummyWeights(config, range, *backend_);
    CHECK(weights.ok()) << weights.status();
    return *std::move(weights);
  }
  const std::unique_ptr<backend::Backend> backend_ = backend::MakeCpuBackend(2);
  const WeightRange all_{.layer_end = kConfig.num_layers};
};

std::vector<float> Host(TensorView tensor) { return {tensor.f32(), tensor.f32() + tensor.size()}; }

double Deviation(TensorView tensor) {
  double squares = 0;
  for (const float value : Host(tensor)) squares += double{value} * value;
  return std::sqrt(squares / static_cast<double>(tensor.size()));
}

TEST_F(DummyWeightsTest, AreLaidOutAsStoredOnesAre) {
  const Weights weights = Make(all_);
  EXPECT_EQ(weights.bytes, WeightBytes(kConfig, all_, DType::kFloat32));
  EXPECT_EQ(Host(weights.final_norm), std::vector<float>(256, 1.0f));
  EXPECT_EQ(Host(weights.layers[1].input_norm), std::vector<float>(256, 1.0f));
  EXPECT_NEAR(Deviation(weights.lm_head.weight), 0.02, 1e-4);
  EXPECT_NEAR(Deviation(weights.layers[2].gate_up.weight), 0.02, 3e-4);
  EXPECT_NE(Host(weights.layers[1].gate_up.weight), Host(weights.layers[2].gate_up.weight));
  EXPECT_NE(Host(weights.layers[1].gate_up.weight.Rows(0, 160)),
            Host(weights.layers[1].gate_up.weight.Rows(160, 160)));
}

TEST_F(DummyWeightsTest, AreTheSameEveryTimeAndFollowTheSeed) {
  const Weights one = Make(all_);
  const Weights again = Make(all_);
  EXPECT_EQ(Host(again.layers[1].qkv.weight), Host(one.layers[1].qkv.weight));
  EXPECT_EQ(Host(again.embedding), Host(one.embedding));
  ASSERT_OK_AND_ASSIGN(const Weights other,
                       MakeDummyWeights(kConfig, all_, *backend_, {.seed = kRecipe.seed + 1}));
  EXPECT_NE(Host(other.layers[1].qkv.weight), Host(one.layers[1].qkv.weight));
  EXPECT_NE(Host(other.layers[1].qkv.bias), Host(one.layers[1].qkv.bias));
  EXPECT_NE(Host(other.embedding), Host(one.embedding));
}

// Rows [begin, begin + count) of `whole`, and of them columns [column, column + cols).
std::vector<float> Part(TensorView whole, int64_t begin, int64_t count, int64_t column,
                        int64_t cols) {
  std::vector<float> part;
  for (int64_t row = begin; row < begin + count; ++row) {
    const float* from = whole.f32() + row * whole.cols + column;
    part.insert(part.end(), from, from + cols);
  }
  return part;
}

TEST_F(DummyWeightsTest, ShardsAndStagesHoldPartsOfTheWhole) {
  const Weights whole = Make(all_);
  constexpr int64_t kQuery = 384;  // rows of a shard
  constexpr int64_t kKey = 128;
  for (const int32_t rank : {0, 1}) {
    const Weights shard = Make({.layer_begin = 1,
                                .layer_end = 3,
                                .tensor_parallel_rank = rank,
                                .tensor_parallel_size = 2});
    const Weights::Layer& part = shard.layers[1];
    const Weights::Layer& all = whole.layers[2];
    const auto expect_rows = [&](TensorView of_part, TensorView of_all, int64_t at_part,
                                 int64_t at_all, int64_t count) {
      EXPECT_EQ(Part(of_part, at_part, count, 0, of_part.cols),
                Part(of_all, at_all, count, 0, of_all.cols))
          << rank << " " << at_part;
    };
    expect_rows(part.qkv.weight, all.qkv.weight, 0, rank * kQuery, kQuery);
    expect_rows(part.qkv.weight, all.qkv.weight, kQuery, 2 * kQuery + rank * kKey, kKey);
    expect_rows(part.qkv.weight, all.qkv.weight, kQuery + kKey, 2 * kQuery + 2 * kKey + rank * kKey,
                kKey);
    EXPECT_EQ(Part(part.qkv.bias, 0, 1, 0, kQuery),
              Part(all.qkv.bias, 0, 1, rank * kQuery, kQuery));
    EXPECT_EQ(Part(part.qkv.bias, 0, 1, kQuery, kKey),
              Part(all.qkv.bias, 0, 1, 2 * kQuery + rank * kKey, kKey));
    expect_rows(part.gate_up.weight, all.gate_up.weight, 80, 160 + rank * 80, 80);
    EXPECT_EQ(Host(part.out.weight), Part(all.out.weight, 0, 256, rank * kQuery, kQuery));
    EXPECT_EQ(Host(part.down.weight), Part(all.down.weight, 0, 256, int64_t{80} * rank, 80));
    const int64_t first_id = VocabularyBegin(kConfig, rank, 2);
    expect_rows(shard.lm_head.weight, whole.lm_head.weight, 0, first_id, shard.lm_head.weight.rows);
    const Weights first =
        Make({.layer_end = 1, .tensor_parallel_rank = rank, .tensor_parallel_size = 2});
    expect_rows(first.embedding, whole.embedding, 0, first_id, first.embedding.rows - 1);
  }
  EXPECT_THAT(
      MakeDummyWeights(kConfig, {.layer_end = 3, .tensor_parallel_size = 3}, *backend_).status(),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("3 ranks")));
}

TEST_F(DummyWeightsTest, BiasesPreferSmallDistancesAndOneOfTheirOwn) {
  const Weights weights = Make(all_);
  std::vector<double> distances;
  for (const Weights::Layer& layer : weights.layers) {
    const Row bias = RowOf(layer.qkv.bias.f32());
    for (size_t head = 0; head < bias.q.size(); ++head) {
      const Head& q = bias.q[head];
      const Head& k = bias.k[head / 3];
      for (int64_t f = 0; f < kFrequencies; ++f) {
        EXPECT_NEAR(std::abs(q[f]) * std::abs(k[f]) / std::sqrt(128.0), 0.15, 1e-5);
        EXPECT_NEAR(std::abs(q[f]), std::abs(k[f]), 1e-5);
        if (IsDistant(f)) continue;
        EXPECT_NEAR(std::arg(q[f] / k[f]), 0, 1e-5) << f;
      }
      // The distance at which all the others agree, too; the fastest of them tells neighbours
      // apart.
      const auto fits = [&](int64_t distance) {
        for (int64_t f = 2; f < kFrequencies; f += 3) {
          const auto turned =
              q[f] * std::conj(k[f]) * std::polar(1.0, Omega(f) * static_cast<double>(distance));
          if (std::abs(std::arg(turned)) > 1e-3) return false;
        }
        return true;
      };
      int64_t distance = 1;
      while (distance <= 600'000 && !fits(distance)) ++distance;
      ASSERT_LE(distance, 600'000) << head;
      distances.push_back(static_cast<double>(distance));
    }
  }
  // Log-uniform: the mean of 18 logarithms, in parts of ln 600,000, is within 4 deviations.
  double sum = 0;
  for (const double distance : distances) sum += std::log(distance) / std::log(6e5);
  EXPECT_NEAR(sum / 18, 0.5, 4 * std::sqrt(1.0 / 12 / 18));
  EXPECT_GT(std::set<double>(distances.begin(), distances.end()).size(), 12u);  // small ones repeat
}

TEST_F(DummyWeightsTest, BiasesOfValuesAreZero) {
  const Weights weights = Make(all_);
  EXPECT_EQ(Part(weights.layers[0].qkv.bias, 0, 1, 1024, 256), std::vector<float>(256, 0));
}

// Queries and keys of the first layer, of sinks and of as many other tokens as asked for.
TEST_F(DummyWeightsTest, ContentGivesLogitsOfUnitDeviationAndSinksFourMore) {
  const Weights weights = Make(all_);
  constexpr int64_t kOthers = 150;
  std::vector<float> x;
  for (int64_t i = 0; i < kSinks + kOthers; ++i) {
    const int64_t id = i < kSinks ? i * kDummySinkPeriod : 1 + (i * 23 % 199) + i / 50 * 200;
    const float* row = weights.embedding.f32() + id * 256;
    x.insert(x.end(), row, row + 256);
  }
  const auto matrix = [](std::vector<float>& values, int64_t cols) {
    return TensorView{values.data(), DType::kFloat32, static_cast<int64_t>(values.size()) / cols,
                      cols};
  };
  std::vector<float> norm(x.size());
  std::vector<float> qkv((kSinks + kOthers) * 1280);
  const Weights::Layer& layer = weights.layers[0];
  ASSERT_OK(backend_->RmsNorm(matrix(x, 256), layer.input_norm, 1e-6, matrix(norm, 256)));
  ASSERT_OK(backend_->Linear(matrix(norm, 256), layer.qkv, matrix(qkv, 1280)));
  std::vector<Row> sinks;
  std::vector<Row> others;
  for (int64_t i = 0; i < kSinks + kOthers; ++i) {
    (i < kSinks ? sinks : others).push_back(RowOf(&qkv[i * 1280]));
  }

  for (const double distance : {0.0, 30.0, 5e3, 250e3}) {
    const std::vector<double> more = SinkLogits(sinks, others, distance);
    EXPECT_NEAR(Mean(more), 4, 0.5) << distance;
    for (const double logit : more) EXPECT_NEAR(logit, 4, 1.2) << distance;
  }

  const Row bias = RowOf(layer.qkv.bias.f32());
  for (size_t head = 0; head < 6; ++head) {
    double squares = 0;
    for (const Row& query : others) {
      for (const Row& key : others) {
        Head q = query.q[head];
        Head k = key.k[head / 3];
        for (int64_t f = 0; f < kFrequencies; ++f) {
          q[f] -= bias.q[head][f];
          k[f] -= bias.k[head / 3][f];
        }
        squares += std::pow(Logit(q, k, 0), 2);
      }
    }
    EXPECT_NEAR(std::sqrt(squares / (kOthers * kOthers)), 1, 0.1) << head;
  }
}

// A model of many layers on a prompt of many tokens.
TEST_F(DummyWeightsTest, TheResidualStreamStaysSmallAndLastLayersSeeSinks) {
  ModelConfig config = kConfig;
  config.num_layers = 24;
  WatchedBackend device;
  ASSERT_OK_AND_ASSIGN(Weights weights, MakeDummyWeights(config, {.layer_end = 24}, device));
  double before = 0;  // the variance of an ordinary token's embedding
  for (int64_t i = 1; i < 200; ++i) before += std::pow(Deviation(weights.embedding.Rows(i, 1)), 2);
  before /= 199;
  std::vector<TokenId> ids;
  for (TokenId id = 0; id <= 4000; id += kDummySinkPeriod) ids.push_back(id);
  for (TokenId i = 0; i < 200; ++i) ids.push_back(1 + i * 19 + (i * 19 % 200 == 199 ? 1 : 0));
  const std::vector<BlockId> blocks = {0};
  ASSERT_OK_AND_ASSIGN(const rank::KvCache cache,
                       rank::KvCache::Create(device, {.num_kv_heads = 2, .head_dim = 128}, 24, 1));
  Qwen2 model(config, {}, std::move(weights), device);
  Activations activations;
  const std::vector<ModelSlice> slices = {{.token_ids = ids, .block_table = blocks}};
  ASSERT_OK(model.Begin(slices, activations));
  ASSERT_OK(model.Embed(activations));
  for (int32_t layer = 0; layer < 24; ++layer) {
    ASSERT_OK(model.RunLayer(layer, cache.Layer(layer), activations));
  }
  const int64_t count = static_cast<int64_t>(ids.size());
  const double after = std::pow(Deviation(activations.hidden().Rows(kSinks, count - kSinks)), 2);
  EXPECT_GT(after, 1.1 * before);
  EXPECT_LT(after, 2.2 * before);
  // What layers add makes a sink's direction a smaller part of the stream, by a sixth at the end.
  std::vector<double> first;
  std::vector<double> last;
  for (size_t layer = 0; layer < 24; ++layer) {
    const double more =
        Mean(SinkLogits(device.Rows(layer, 0, kSinks), device.Rows(layer, kSinks, count), 100));
    if (layer < 8) first.push_back(more);
    if (layer >= 16) last.push_back(more);
  }
  EXPECT_NEAR(Mean(first), 4, 0.5);
  EXPECT_NEAR(Mean(last), 3.5, 0.5);
}

}  // namespace
}  // namespace longhaul::worker::model
