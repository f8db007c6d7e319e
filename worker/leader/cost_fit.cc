#include "worker/leader/cost_fit.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/logging.h"

namespace longhaul::worker::leader {
namespace {

// Of the newest unit in the average of errors.
constexpr double kErrorWeight = 1.0 / 32;

// At most 1, so that one unit that met a pause does not decide for many.
double ErrorOf(const CostModel& model, const UnitShape& shape, double seconds) {
  const double predicted = PredictSeconds(model.coefficients(), shape);
  return std::min(1.0, std::abs(predicted - seconds) / seconds);
}

bool Predicts(const CostCoefficients& cost) { return cost.c + cost.g + cost.b + cost.a > 0; }

}  // namespace

std::string ToString(const CostCoefficients& cost) {
  return absl::StrCat("c=", cost.c, " g=", cost.g, " b=", cost.b, " a=", cost.a,
                      " reach_tokens=", cost.reach_tokens);
}

bool CostFit::WasWarm(const UnitShape& shape) {
  const auto tokens = static_cast<uint64_t>(std::clamp(shape.new_tokens, 0.0, 1e15));
  const uint64_t size = uint64_t{1} << std::bit_width(tokens);
  const bool was = (warm_sizes_ & size) != 0;
  warm_sizes_ |= size;
  return was;
}

void CostFit::Believe(bool believed) {
  if (believed == believed_) return;
  believed_ = believed;
  if (believed) {
    LOG(WARNING) << "event=cost_fit_recovered error=" << error_ << " limit=" << kBelieved << " "
                 << ToString(model_.coefficients());
  } else {
    LOG(ERROR) << "event=cost_fit_failed error=" << error_ << " limit=" << kBelieved
               << " at start, later " << kDisbelieved << " " << ToString(model_.coefficients());
    disbelieved_ = model_.coefficients();
    // What misled it would for long, since units that were told to be fast weigh most.
    model_ = CostModel();
    units_ = 0;
  }
}

void CostFit::Restore(const CostCoefficients& saved) {
  model_ = CostModel(saved);
  error_ = 0;
  believed_ = true;
  units_ = kMinUnits;
}

void CostFit::Learn(std::span<const CostSample> samples) {
  if (samples.empty()) return;
  model_ = CostModel();
  for (const CostSample& sample : samples) {
    model_.Observe(sample.shape, sample.seconds);
    WasWarm(sample.shape);
  }
  if (samples.size() < kMinSamples) return;
  std::vector<double> errors;
  errors.reserve(samples.size());
  for (const CostSample& s : samples) errors.push_back(ErrorOf(model_, s.shape, s.seconds));
  const auto middle = errors.begin() + static_cast<int64_t>(errors.size() / 2);
  std::nth_element(errors.begin(), middle, errors.end());
  error_ = *middle;
  units_ = kMinUnits;
  Believe(error_ <= kBelieved && Predicts(model_.coefficients()));
}

void CostFit::Observe(const UnitShape& shape, double seconds) {
  if (!(seconds > 0) || !(shape.new_tokens > 0)) return;
  const bool was_warm = WasWarm(shape);
  if (model_.known()) {
    if (!was_warm) return;
    units_ = std::min(units_ + 1, kMinUnits);
    error_ += kErrorWeight * (ErrorOf(model_, shape, seconds) - error_);
  }
  model_.Observe(shape, seconds);
  const bool limit_kept = error_ <= (believed_ ? kDisbelieved : kBelieved);
  Believe(limit_kept && Predicts(model_.coefficients()));
}

}  // namespace longhaul::worker::leader
