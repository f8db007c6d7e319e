#pragma once

#include <cstddef>
#include <string>
#include <string_view>

// UTF-8 as the Unicode standard defines it (table 3-7): no overlong forms, no surrogates, nothing
// above U+10FFFF. Pure functions, linear in the number of bytes.
namespace longhaul::text {

// Offset of the first byte that is not part of a well-formed sequence; npos when all are.
size_t FindInvalidUtf8(std::string_view bytes);

// What follows the bytes that AppendWellFormed sees.
enum class Continuation {
  kNone,      // nothing: an incomplete sequence at the end is replaced
  kMayFollow  // perhaps the rest of it: an incomplete sequence at the end is left alone
};

// Appends `bytes` to `out`, each maximal ill-formed part replaced by one U+FFFD (as the standard
// recommends and Rust's from_utf8_lossy does). Returns the number of bytes consumed: all of them
// with kNone, all but at most 3 with kMayFollow.
size_t AppendWellFormed(std::string_view bytes, Continuation continuation, std::string& out);

// The code point that starts at `bytes[offset]` of well-formed text, and its length in bytes.
struct CodePoint {
  char32_t value;
  size_t length;
};
CodePoint CodePointAt(std::string_view bytes, size_t offset);

// Appends the 1 to 4 bytes of a code point that is no surrogate.
void AppendCodePoint(char32_t code_point, std::string& out);

}  // namespace longhaul::text
