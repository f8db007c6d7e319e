#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "common/cost_model.h"

namespace longhaul::worker::leader {

// For logs: "c=0.01 g=0 b=1e-05 a=1e-10 reach_tokens=8448".
std::string ToString(const CostCoefficients& cost);

struct CostSample {
  UnitShape shape;
  double seconds = 0;
};

// The leader's cost model, and whether it is believed: coefficients that predict badly are worse
// than none, because requests are refused and stalls judged by them. Those that are not believed
// are zero to everybody: nothing is told or refused. Only the length of steps goes on to follow
// them: a poor estimate keeps short requests from waiting better than tokens alone do.
//
// What a warm-up measured is believed if half of it is predicted within kBelieved. Afterwards the
// error of each unit's prediction, made before the unit is learnt from, is averaged over about 32
// units: above kDisbelieved belief ends; all is forgotten and learnt anew, and once the error is
// below kBelieved, belief begins again.
//
// Says in the log when belief ends or begins. Thread-compatible, owned by the engine core.
class CostFit {
 public:
  // Relative error. Timers and neighbours make 5 to 10% on a machine that serves, and chunks that
  // are a quarter too long still keep a step within sight of its target; twice as far off, tokens
  // alone are the better bound. Between the two nothing changes, so that noise does not toggle it.
  static constexpr double kBelieved = 0.25;
  static constexpr double kDisbelieved = 0.5;
  // A check of fewer samples than there are coefficients would say nothing.
  static constexpr size_t kMinSamples = 4;
  // Without such a check: units whose predictions were looked at one by one.
  static constexpr int kMinUnits = 32;

  // Ranks are up that have run nothing: their first unit of each size is slower than later ones.
  void GroupUp() { warm_sizes_ = 0; }

  // Coefficients of an earlier life on the same hardware.
  void Restore(const CostCoefficients& saved);
  // What a warm-up measured; no sample is the first of its shape. Fewer than kMinSamples are
  // learnt from unchecked.
  void Learn(std::span<const CostSample> samples);
  // A unit with prefill took so long. The first one of its size since GroupUp counts only while
  // nothing else is known.
  void Observe(const UnitShape& shape, double seconds);

  // False: predictions are zero.
  bool known() const { return believed_ && model_.known(); }
  bool Covers(const UnitShape& shape) const { return known() && model_.Covers(shape); }
  CostCoefficients coefficients() const {
    return known() ? model_.coefficients() : CostCoefficients();
  }
  // For the length of steps: the newest there are, believed or not.
  CostCoefficients step_coefficients() const {
    return model_.known() ? model_.coefficients() : disbelieved_;
  }
  // Whether they are worth being saved: what was learnt has been checked.
  bool checked() const { return known() && units_ >= kMinUnits; }
  // Relative, of late, each unit's at most 1: a median after Learn, an average afterwards.
  double error() const { return error_; }

 private:
  // Returns whether a unit of this size has run since GroupUp, and remembers that one has.
  bool WasWarm(const UnitShape& shape);
  void Believe(bool believed);

  CostModel model_;
  CostCoefficients disbelieved_;  // the last ones that were
  bool believed_ = true;
  int units_ = 0;  // whose prediction was looked at, kMinUnits at most
  double error_ = 0;
  uint64_t warm_sizes_ = 0;  // bit n: a unit of [2^(n-1), 2^n) new tokens has run
};

}  // namespace longhaul::worker::leader
