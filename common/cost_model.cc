#include "common/cost_model.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "common/logging.h"

namespace longhaul {
namespace {

// A sample's weight after n more samples is kForget^n: about 50 units are remembered.
constexpr double kForget = 0.98;
// Keeps the solve regular while fewer than four different shapes were seen; in units of squared
// relative error, far below what a sample weighs.
constexpr double kRidge = 1e-9;
// What a prior is taken to have seen if it does not say: the longest prompt that is usual.
constexpr int64_t kUnlimitedReach = 524'288 + 8192;
constexpr int64_t kUsualChunk = 8192;
// So many samples of five shapes: noise of the first units moves it little, and a machine that has
// changed is followed within some dozens.
constexpr int kPriorRounds = 3;
// What a coefficient must explain to be more than zero, in units of squared relative error: a
// percent of one sample or two. While few shapes were seen, several of them explain the same: what
// each token costs goes before what each unit costs, and reading a history comes last.
constexpr double kTermPrice[4] = {2e-4, 3e-4, 1e-4, 1.5e-4};
// Features are divided by these, so that all terms of a usual chunk are near 1.
constexpr double kScale[4] = {1.0, 1e4, 1e3, 1e7};

// Solves the symmetric positive definite system of the first n rows by Cholesky; nullopt if
// singular.
std::optional<std::array<double, 4>> Solve(std::array<std::array<double, 4>, 4> m,
                                           std::array<double, 4> v, int n) {
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j <= i; ++j) {
      double sum = m[i][j];
      for (int k = 0; k < j; ++k) sum -= m[i][k] * m[j][k];
      if (i == j) {
        if (sum <= 0) return std::nullopt;
        m[i][i] = std::sqrt(sum);
      } else {
        m[i][j] = sum / m[j][j];
      }
    }
  }
  for (int i = 0; i < n; ++i) {
    for (int k = 0; k < i; ++k) v[i] -= m[i][k] * v[k];
    v[i] /= m[i][i];
  }
  for (int i = n - 1; i >= 0; --i) {
    for (int k = i + 1; k < n; ++k) v[i] -= m[k][i] * v[k];
    v[i] /= m[i][i];
  }
  return v;
}

}  // namespace

void UnitShape::Add(int64_t history, int64_t count, double fraction) {
  const double l = static_cast<double>(history);
  const double x = static_cast<double>(count);
  history_tokens += fraction * l;
  new_tokens += fraction * x;
  pairs += fraction * (2 * l * x + x * x);
}

double PredictSeconds(const CostCoefficients& cost, const UnitShape& shape) {
  return cost.c + cost.g * shape.history_tokens + cost.b * shape.new_tokens + cost.a * shape.pairs;
}

int64_t TokensWithin(const CostCoefficients& cost, int64_t history, double seconds) {
  const double l = static_cast<double>(history);
  const double rest = seconds - cost.g * l;
  const double linear = cost.b + 2 * cost.a * l;
  if (linear <= 0 && cost.a <= 0) {
    return rest < 0 ? 0 : std::numeric_limits<int64_t>::max();
  }
  if (rest <= 0) return 0;
  // a x^2 + linear x = rest, in the form that has no difference of like numbers.
  const double x = 2 * rest / (linear + std::sqrt(linear * linear + 4 * cost.a * rest));
  constexpr double kMost = 1e15;  // far below 2^63, far above any prompt
  return x < kMost ? static_cast<int64_t>(x) : std::numeric_limits<int64_t>::max();  // also a NaN
}

double PredictPrefillSeconds(const CostCoefficients& cost, int64_t history, int64_t count,
                             int64_t chunk) {
  CHECK(chunk > 0 && history >= 0) << "chunk=" << chunk << " history=" << history;
  if (count <= 0) return 0;
  const double l = static_cast<double>(history);
  const double x = static_cast<double>(count);
  const double n = std::ceil(x / static_cast<double>(chunk));
  const double sum_of_histories = n * l + static_cast<double>(chunk) * n * (n - 1) / 2;
  return cost.c * n + cost.g * sum_of_histories + cost.b * x + cost.a * (2 * l * x + x * x);
}

CostModel::CostModel(const CostCoefficients& prior) {
  // The prior counts as some samples that took what it predicts: behind a history of two lengths,
  // else its cost could not be told from that of computing with it.
  const int64_t reach = prior.reach_tokens > 0 ? prior.reach_tokens : kUnlimitedReach;
  const int64_t chunk = std::min(reach, kUsualChunk);
  const int64_t block = std::min<int64_t>((chunk + 3) / 4, 256);
  for (int round = 0; round < kPriorRounds; ++round) {
    for (const auto& [history, count] : {std::pair{int64_t{0}, block},
                                         {0, chunk},
                                         {(reach - chunk) / 2, chunk},
                                         {reach - chunk, chunk},
                                         {reach - block, block}}) {
      UnitShape shape;
      shape.Add(history, count);
      Observe(shape, PredictSeconds(prior, shape));
    }
  }
  coefficients_ = prior;
  known_ = true;
}

void CostModel::Observe(const UnitShape& shape, double seconds) {
  if (!(seconds > 0) || !(shape.new_tokens > 0)) return;
  const Vector feature = {1 / kScale[0] / seconds, shape.history_tokens / kScale[1] / seconds,
                          shape.new_tokens / kScale[2] / seconds,
                          shape.pairs / kScale[3] / seconds};
  for (int i = 0; i < kTerms; ++i) {
    for (int j = 0; j < kTerms; ++j) {
      normal_[i][j] = kForget * normal_[i][j] + feature[i] * feature[j];
    }
    moment_[i] = kForget * moment_[i] + feature[i];  // the target is 1: seconds / seconds
  }
  most_new_tokens_ = std::max(most_new_tokens_, shape.new_tokens);
  most_pairs_ = std::max(most_pairs_, shape.pairs);
  // L + x of one slice, of several a mean: never more than that of the longest.
  const double reach = (shape.pairs / shape.new_tokens + shape.new_tokens) / 2;
  reach_tokens_ = std::max(reach_tokens_, static_cast<int64_t>(reach));
  known_ = true;
  Fit();
}

bool CostModel::Covers(const UnitShape& shape) const {
  return shape.new_tokens <= 2 * most_new_tokens_ && shape.pairs <= 2 * most_pairs_;
}

void CostModel::Fit() {
  double best_error = 0;  // of the empty support, less the constant sum of squared targets
  Vector best{};
  for (int support = 1; support < 1 << kTerms; ++support) {
    std::array<Vector, kTerms> m{};
    Vector v{};
    int index[kTerms];
    int n = 0;
    for (int i = 0; i < kTerms; ++i) {
      if (support >> i & 1) index[n++] = i;
    }
    for (int i = 0; i < n; ++i) {
      for (int j = 0; j < n; ++j) m[i][j] = normal_[index[i]][index[j]];
      m[i][i] *= 1 + kRidge;
      m[i][i] += kRidge;
      v[i] = moment_[index[i]];
    }
    const std::optional<Vector> solution = Solve(m, v, n);
    if (!solution) continue;
    bool feasible = true;
    double error = 0;  // at a support's optimum the error is -moment . solution
    for (int i = 0; i < n; ++i) {
      feasible = feasible && (*solution)[i] >= 0 && std::isfinite((*solution)[i]);
      error += kTermPrice[index[i]] - v[i] * (*solution)[i];
    }
    const bool of_histories = (support & (1 << 1 | 1 << 3)) != 0;
    if (of_histories && reach_tokens_ < kMinReach) continue;
    if (!feasible || error >= best_error) continue;
    best_error = error;
    best = {};
    for (int i = 0; i < n; ++i) best[index[i]] = (*solution)[i];
  }
  coefficients_ = {.c = best[0] / kScale[0],
                   .g = best[1] / kScale[1],
                   .b = best[2] / kScale[2],
                   .a = best[3] / kScale[3],
                   .reach_tokens = reach_tokens_};
}

}  // namespace longhaul
