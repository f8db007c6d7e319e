#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace longhaul::text {

// The alphabet in which tokenizer files write bytes: a printable code point for each (GPT-2's;
// a space is written U+0120, for instance). Returns the bytes that `token` stands for, nullopt if
// it holds a code point outside of the alphabet. `token` is well-formed UTF-8.
std::optional<std::string> ByteLevelToBytes(std::string_view token);

}  // namespace longhaul::text
