#include "common/planning/polyline.h"

#include <algorithm>

#include "common/logging.h"

namespace longhaul::planning {

Polyline::Polyline(std::vector<std::pair<double, double>> points) : points_(std::move(points)) {
  CHECK(!points_.empty());
  for (size_t i = 1; i < points_.size(); ++i) {
    CHECK(points_[i - 1].first < points_[i].first) << "x=" << points_[i].first;
  }
}

double Polyline::At(double x) const {
  if (x <= points_.front().first) return points_.front().second;
  if (x >= points_.back().first) return points_.back().second;
  const auto right = std::upper_bound(points_.begin(), points_.end(), x,
                                      [](double value, const auto& p) { return value < p.first; });
  const auto left = right - 1;
  const double share = (x - left->first) / (right->first - left->first);
  return left->second + share * (right->second - left->second);
}

}  // namespace longhaul::planning
