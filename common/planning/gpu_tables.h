#pragma once

#include <string_view>
#include <vector>

namespace longhaul::planning {

// The cost tables of gpus/*.yaml as they are, compiled in so that `longhaul plan` works wherever
// the program was copied to.
const std::vector<std::string_view>& GpuTables();

}  // namespace longhaul::planning
