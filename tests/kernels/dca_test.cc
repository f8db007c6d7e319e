// RoPE and attention together against Dual Chunk Attention written by relative distances.
#include <vector>

#include "kernels/attention/attention.h"
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
using longhaul::testing::ThreadParallel;

constexpr int64_t kChunkLen = 512;
constexpr int64_t kLocal = 128;
constexpr int64_t kChunkSize = kChunkLen + kLocal;
constexpr int64_t kHeadDim = 64;
constexpr int64_t kQHeads = 2;
constexpr int64_t kRowSize = (kQHeads + 2) * kHeadDim;  // one KV head
constexpr double kTheta = 1e4;

// M(i, j): how far key j is from query i, as the model is made to see it.
int64_t Distance(int64_t i, int64_t j, bool dca) {
  if (!dca) return i - j;
  const int64_t apart = i / kChunkLen - j / kChunkLen;
  const int64_t ri = i % kChunkLen;
  const int64_t rj = j % kChunkLen;
  if (apart == 0) return i - j;
  if (apart == 1) return std::min(ri + kChunkLen, kChunkSize) - rj;
  return kChunkSize - rj;
}

std::vector<double> AttendByDistance(const std::vector<float>& qkv, int64_t row, int32_t head,
                                     double query_scale, bool dca) {
  const float* q = &qkv[row * kRowSize + head * kHeadDim];
  std::vector<double> score(row + 1);
  double max = -HUGE_VAL;
  for (int64_t j = 0; j <= row; ++j) {
    const float* k = &qkv[j * kRowSize + kQHeads * kHeadDim];
    double dot = 0;
    for (int32_t i = 0; i < kHeadDim / 2; ++i) {
      // <R(a) q, R(b) k> = <q, R(b - a) k>, in the plane of elements i and i + D/2.
      const double angle =
          -static_cast<double>(Distance(row, j, dca)) * std::pow(kTheta, -2.0 * i / kHeadDim);
      const double k0 = k[i] * std::cos(angle) - k[i + kHeadDim / 2] * std::sin(angle);
      const double k1 = k[i + kHeadDim / 2] * std::cos(angle) + k[i] * std::sin(angle);
      dot += q[i] * k0 + q[i + kHeadDim / 2] * k1;
    }
    score[j] = dot * query_scale / std::sqrt(double{kHeadDim});
    max = std::max(max, score[j]);
  }
  std::vector<double> out(kHeadDim, 0.0);
  double sum = 0;
  for (int64_t j = 0; j <= row; ++j) {
    const double weight = std::exp(score[j] - max);
    sum += weight;
    const float* v = &qkv[j * kRowSize + (kQHeads + 1) * kHeadDim];
    for (int32_t d = 0; d < kHeadDim; ++d) out[d] += weight * v[d];
  }
  for (double& x : out) x /= sum;
  return out;
}

struct Table {
  std::vector<float> cos, sin;
  RopeAngles angles;
};

Table MakeTable(const std::vector<int64_t>& positions, RopeVariant variant, bool dca) {
  Table table;
  table.cos = Poisoned(positions.size() * kHeadDim / 2);
  table.sin = Poisoned(positions.size() * kHeadDim / 2);
  SerialParallel serial;
  EXPECT_EQ(RopeTableCpu({.positions = positions.data(),
                          .num_rows = static_cast<int64_t>(positions.size()),
                          .head_dim = kHeadDim,
                          .theta = kTheta,
                          .variant = variant,
                          .chunk_len = dca ? kChunkLen : 0,
                          .chunk_size = dca ? kChunkSize : 0,
                          .cos = table.cos.data(),
                          .sin = table.sin.data()},
                         serial),
            KernelStatus::kOk);
  table.angles = {table.cos.data(), table.sin.data()};
  return table;
}

// The whole sequence through the kernels: [T, Hq, D].
std::vector<float> Attend(std::mt19937_64& random, const std::vector<float>& qkv, int64_t length,
                          const std::vector<float>& query_scale, bool dca) {
  std::vector<int64_t> positions(length);
  for (int64_t t = 0; t < length; ++t) positions[t] = t;
  const Table intra = MakeTable(positions, RopeVariant::kIntra, dca);
  PagedCache cache(random, {1, kHeadDim, KvDtype::kFloat32}, length);
  std::vector<float> q_intra = Poisoned(length * kQHeads * kHeadDim);
  std::vector<float> q_succ = q_intra;
  std::vector<float> q_inter = q_intra;
  std::vector<float> out = q_intra;
  RopeQkvParams rope = {.qkv = qkv.data(),
                        .num_rows = length,
                        .position_begin = 0,
                        .num_q_heads = kQHeads,
                        .query_scale = query_scale.data(),
                        .intra = intra.angles,
                        .succ = {},
                        .inter = {},
                        .q_intra = q_intra.data(),
                        .q_succ = nullptr,
                        .q_inter = nullptr,
                        .kv = cache.View()};
  AttentionParams attention = {.q_intra = q_intra.data(),
                               .num_rows = length,
                               .query_begin = 0,
                               .num_q_heads = kQHeads,
                               .softmax_scale = 0.125f,
                               .chunk_len = 0,
                               .kv = cache.View(),
                               .out = out.data(),
                               .lse = nullptr};
  Table succ, inter;
  if (dca) {
    succ = MakeTable(positions, RopeVariant::kSucc, dca);
    inter = MakeTable(positions, RopeVariant::kInter, dca);
    rope.succ = succ.angles;
    rope.inter = inter.angles;
    attention.q_succ = rope.q_succ = q_succ.data();
    attention.q_inter = rope.q_inter = q_inter.data();
    attention.chunk_len = kChunkLen;
  }
  ThreadParallel threads(2);
  EXPECT_EQ(RopeQkvCpu(rope, threads), KernelStatus::kOk);
  EXPECT_EQ(AttentionCpu(attention, threads), KernelStatus::kOk);
  return out;
}

void ExpectDistances(bool dca) {
  std::mt19937_64 random = FreshRandom();
  constexpr int64_t kLength = 3 * kChunkLen + 2;
  const std::vector<float> qkv = Normal(random, kLength * kRowSize);
  std::vector<float> query_scale(kLength);
  for (int64_t t = 0; t < kLength; ++t) {
    const float f = std::max(1.0f, 0.1f * std::log(static_cast<float>(t + 1) / kChunkSize) + 1);
    query_scale[t] = f * f;
  }
  const std::vector<float> out = Attend(random, qkv, kLength, query_scale, dca);
  for (const int64_t boundary : {int64_t{1}, kLocal, kChunkLen, kChunkLen + kLocal, 2 * kChunkLen,
                                 2 * kChunkLen + kLocal, 3 * kChunkLen}) {
    for (const int64_t row : {boundary - 1, boundary, boundary + 1}) {
      for (int32_t head = 0; head < kQHeads; ++head) {
        const std::vector<double> exact = AttendByDistance(qkv, row, head, query_scale[row], dca);
        const std::vector<float> want(exact.begin(), exact.end());
        const float* got = &out[(row * kQHeads + head) * kHeadDim];
        EXPECT_TRUE(Near(std::vector<float>(got, got + kHeadDim), want,
                         longhaul::testing::kDcaDistanceTolerance))
            << "row " << row << " head " << head;
      }
    }
  }
}

TEST(DualChunkAttention, SeesTheDistancesOfThePaper) { ExpectDistances(/*dca=*/true); }

TEST(DualChunkAttention, SwitchedOffSeesTrueDistances) { ExpectDistances(/*dca=*/false); }

}  // namespace
}  // namespace longhaul::kernels
