#pragma once

#include <cstdint>
#include <string>

namespace longhaul::cli {

// A number >= 0 as people read it: 1000000 -> "1,000,000".
std::string Grouped(int64_t number);

}  // namespace longhaul::cli
