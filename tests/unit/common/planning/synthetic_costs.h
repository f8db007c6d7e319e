#pragma once

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "common/cost_model.h"
#include "common/planning/prefill_costs.h"

namespace longhaul::planning {

// Costs by formula: stage s takes `scale[s]` times what the function says of the chunk.
class SyntheticCosts final : public PrefillCosts {
 public:
  SyntheticCosts(std::vector<double> scale, std::function<double(const Chunk&)> seconds,
                 double send_seconds_per_token = 0)
      : scale_(std::move(scale)),
        seconds_(std::move(seconds)),
        send_seconds_per_token_(send_seconds_per_token) {}

  // Equal stages with fitted coefficients.
  SyntheticCosts(int num_stages, const CostCoefficients& cost)
      : SyntheticCosts(std::vector<double>(static_cast<size_t>(num_stages), 1.0),
                       [cost](const Chunk& chunk) {
                         UnitShape shape;
                         shape.Add(chunk.begin, chunk.count);
                         return PredictSeconds(cost, shape);
                       }) {}

  int num_stages() const override { return static_cast<int>(scale_.size()); }
  double StageSeconds(int stage, const Chunk& chunk, bool) const override {
    return scale_[static_cast<size_t>(stage)] * seconds_(chunk);
  }
  double SendSeconds(const Chunk& chunk) const override {
    return send_seconds_per_token_ * static_cast<double>(chunk.count);
  }

 private:
  const std::vector<double> scale_;
  const std::function<double(const Chunk&)> seconds_;
  const double send_seconds_per_token_;
};

}  // namespace longhaul::planning
