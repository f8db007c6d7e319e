#pragma once

#include <array>
#include <cstdint>

namespace longhaul {

// t(L, x) = c + gL + bx + a(2Lx + x^2): seconds to run x new tokens behind L processed ones through
// the whole model. c: cost of a unit; g: reading the history; b: linear layers; a: attention pairs.
struct CostCoefficients {
  double c = 0;
  double g = 0;
  double b = 0;
  double a = 0;
  // Tokens of the longest history and chunk together that was observed. What is more than twice as
  // long is predicted by extrapolation, by which nothing should be refused. 0 = no limit is known.
  int64_t reach_tokens = 0;

  bool Reaches(int64_t tokens) const { return reach_tokens == 0 || tokens <= 2 * reach_tokens; }
};

// What a unit costs, as sums over its slices: t is linear in them, so a batch is priced like one
// chunk.
struct UnitShape {
  double history_tokens = 0;  // sum of L
  double new_tokens = 0;      // sum of x
  double pairs = 0;           // sum of 2Lx + x^2

  // `fraction`: of the layers, for a unit that is cut between them.
  void Add(int64_t history, int64_t count, double fraction = 1);
};

// Seconds of one unit.
double PredictSeconds(const CostCoefficients& cost, const UnitShape& shape);

// Seconds to prefill `count` tokens behind `history`, cut into units of `chunk` > 0 tokens. Closed
// form: the attention term does not depend on the cut.
double PredictPrefillSeconds(const CostCoefficients& cost, int64_t history, int64_t count,
                             int64_t chunk);

// The most new tokens behind `history` that add at most `seconds` to a unit (which has its c
// anyway). INT64_MAX if they cost nothing, which is what an unknown model says.
int64_t TokensWithin(const CostCoefficients& cost, int64_t history, double seconds);

// Fits the coefficients to what units took. Thread-compatible; the leader's engine thread feeds it
// and its coefficients travel to the routers, who predict with the functions above.
//
// Least squares of the relative error with exponential forgetting, so that a unit of 50 ms counts
// as much as one of 5 s and the fit follows a machine that slows down. Coefficients are never
// negative, and zero if they explain next to nothing (a percent of a unit or two): the optimum
// under that is found exactly, over the 15 supports of four coefficients. Before kMinReach tokens
// were seen together, c and b alone are fitted: what short units show of histories is noise, and
// grows with the square of a prompt's length. O(1) a call.
class CostModel {
 public:
  static constexpr int64_t kMinReach = 4096;

  CostModel() = default;
  // Starts from coefficients known before (of the same model and hardware), which reach as far as
  // they say; samples move them.
  explicit CostModel(const CostCoefficients& prior);

  // A unit of this shape took `seconds`. Ignored unless seconds > 0 and shape.new_tokens > 0. Feed
  // units with prefill only: decode steps have another rate and would crowd them out.
  void Observe(const UnitShape& shape, double seconds);

  // False until something was observed or given: predictions are then zero.
  bool known() const { return known_; }
  // Whether a prediction for this shape is more than extrapolation: it is at most twice as large,
  // in tokens and in pairs, as something observed. A rank is not called stalled on a mere guess.
  bool Covers(const UnitShape& shape) const;
  const CostCoefficients& coefficients() const { return coefficients_; }

 private:
  static constexpr int kTerms = 4;
  using Vector = std::array<double, kTerms>;

  void Fit();

  std::array<Vector, kTerms> normal_{};  // weighted sum of outer products of scaled features
  Vector moment_{};                      // weighted sum of scaled features times seconds
  CostCoefficients coefficients_;
  double most_new_tokens_ = 0;  // observed
  double most_pairs_ = 0;
  int64_t reach_tokens_ = 0;
  bool known_ = false;
};

}  // namespace longhaul
