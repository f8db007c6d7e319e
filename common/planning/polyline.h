#pragma once

#include <utility>
#include <vector>

namespace longhaul::planning {

// A function given by points and straight lines between them, constant before the first and after
// the last. Immutable value.
class Polyline {
 public:
  // At least one point; x strictly ascending.
  explicit Polyline(std::vector<std::pair<double, double>> points);

  double At(double x) const;
  const std::vector<std::pair<double, double>>& points() const { return points_; }

 private:
  std::vector<std::pair<double, double>> points_;
};

}  // namespace longhaul::planning
