#include "common/text/byte_level.h"

#include <array>
#include <cstdint>

#include "common/text/utf8.h"

namespace longhaul::text {
namespace {

constexpr char32_t kFirstShifted = 0x100;
constexpr size_t kNumShifted = 68;  // bytes that are not printable

constexpr bool IsPrintable(char32_t c) {
  return (c >= 0x21 && c <= 0x7E) || (c >= 0xA1 && c <= 0xAC) || (c >= 0xAE && c <= 0xFF);
}

// The bytes that stand at kFirstShifted, kFirstShifted + 1, ...: the others in order.
constexpr std::array<uint8_t, kNumShifted> kShifted = [] {
  std::array<uint8_t, kNumShifted> bytes{};
  size_t count = 0;
  for (char32_t c = 0; c < 256; ++c) {
    if (!IsPrintable(c)) bytes[count++] = static_cast<uint8_t>(c);
  }
  return bytes;
}();

}  // namespace

std::optional<std::string> ByteLevelToBytes(std::string_view token) {
  std::string bytes;
  bytes.reserve(token.size());
  for (size_t offset = 0; offset < token.size();) {
    const CodePoint c = CodePointAt(token, offset);
    offset += c.length;
    if (c.value < kFirstShifted && IsPrintable(c.value)) {
      bytes.push_back(static_cast<char>(c.value));
    } else if (c.value >= kFirstShifted && c.value < kFirstShifted + kNumShifted) {
      bytes.push_back(static_cast<char>(kShifted[c.value - kFirstShifted]));
    } else {
      return std::nullopt;
    }
  }
  return bytes;
}

}  // namespace longhaul::text
