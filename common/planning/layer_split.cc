#include "common/planning/layer_split.h"

#include <cstdint>
#include <numeric>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/status_macros.h"

namespace longhaul::planning {

absl::StatusOr<std::vector<int>> EvenLayerSplit(int num_layers, int num_stages) {
  if (num_stages < 1 || num_stages > num_layers) {
    return absl::InvalidArgumentError(absl::StrCat("cannot split ", num_layers, " layers into ",
                                                   num_stages, " stages: each needs one"));
  }
  std::vector<int> layers(static_cast<size_t>(num_stages), num_layers / num_stages);
  for (int i = 0; i < num_layers % num_stages; ++i) ++layers[static_cast<size_t>(i)];
  return layers;
}

absl::StatusOr<std::vector<int>> ParseLayerSplit(const std::string& text, int num_layers,
                                                 int num_stages) {
  if (text.empty()) {
    absl::StatusOr<std::vector<int>> layers = EvenLayerSplit(num_layers, num_stages);
    RETURN_IF_ERROR(layers.status()) << "--pipeline-parallel-size";
    return layers;
  }
  const std::vector<std::string> parts = absl::StrSplit(text, ',');
  std::vector<int> layers;
  for (const std::string& part : parts) {
    int count = 0;
    if (!absl::SimpleAtoi(part, &count) || count < 1 || count > num_layers) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--layer-split has \"", part, "\", must be numbers of layers from 1 to ", num_layers));
    }
    layers.push_back(count);
  }
  const int64_t sum = std::accumulate(layers.begin(), layers.end(), int64_t{0});
  if (static_cast<int>(layers.size()) != num_stages || sum != num_layers) {
    return absl::InvalidArgumentError(
        absl::StrCat("--layer-split has ", layers.size(), " stages with ", sum, " layers, must be ",
                     num_stages, " (--pipeline-parallel-size) with ", num_layers));
  }
  return layers;
}

}  // namespace longhaul::planning
