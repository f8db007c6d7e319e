#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace longhaul::cli {

// The offset of the first byte that is not part of a well-formed UTF-8 sequence, or nullopt if
// there is none.
std::optional<size_t> InvalidUtf8At(std::string_view text);

}  // namespace longhaul::cli
