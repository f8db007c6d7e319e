#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace longhaul::text {

// Unicode normalization form C, linear in the length of the text for any input (marks are sorted in
// n log n within a run of marks). Only the stretches that may not be NFC already are worked on.
// `text` is well-formed UTF-8. nullopt means that it is NFC as it is, which is the usual case.
// Pure; the tables are those of utf8proc (Unicode 15).
std::optional<std::string> NormalizeNfc(std::string_view text);

}  // namespace longhaul::text
