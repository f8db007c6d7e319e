#pragma once

#include <string>

#include "common/cost_model.h"

namespace longhaul::worker::leader {

// What units cost on the hardware of a group's ranks (GroupFacts). Value.
struct SavedCost {
  std::string hardware;
  CostCoefficients cost;
};

}  // namespace longhaul::worker::leader
