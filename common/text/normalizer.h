#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace longhaul::text {

// Unicode normalization form C, linear in the length of the text for any input (marks are sorted in
// n log n within a run of marks). Only the stretches that may not be NFC already are worked on.
// `text` is well-formed UTF-8. nullopt means that it is NFC as it is, which is the usual case.
// Pure. Gives what Hugging Face's NFC gives, whose tables are those of Unicode 9: text of later
// marks in an order that is not canonical stays as it is.
std::optional<std::string> NormalizeNfc(std::string_view text);

}  // namespace longhaul::text
