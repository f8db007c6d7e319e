#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace longhaul::planning {

// Layers of each stage, as even as whole layers allow; the first stages have one more.
// kInvalidArgument unless 1 <= num_stages <= num_layers.
absl::StatusOr<std::vector<int>> EvenLayerSplit(int num_layers, int num_stages);

// The same from the setting `layer-split`: numbers separated by commas, or empty for an even split.
// kInvalidArgument, naming the flag, for what is no split of `num_layers` into `num_stages`.
absl::StatusOr<std::vector<int>> ParseLayerSplit(const std::string& text, int num_layers,
                                                 int num_stages);

}  // namespace longhaul::planning
