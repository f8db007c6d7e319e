#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace longhaul::router::rest {

// Objects and arrays that a request may have in each other.
constexpr size_t kMaxJsonDepth = 64;

// The value at which a JSON text stops being readable.
struct JsonFault {
  std::string path;    // such as messages[0].content; empty for the document itself
  std::string reason;  // "has invalid UTF-8", "is a number out of range", ...
};

// Explains a text that a parser refused as a whole: looks for invalid UTF-8, surrogates without a
// partner, numbers that no 64-bit type holds and more than kMaxJsonDepth levels, and names the
// field they stand in. nullopt if there is none of these (then the structure is at fault, and the
// parser says so better). Linear, not recursive; only for the way of refusal, since it does what a
// parser did already.
std::optional<JsonFault> FindJsonFault(std::string_view json);

}  // namespace longhaul::router::rest
