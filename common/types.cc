#include "common/types.h"

#include <random>

#include "absl/strings/str_format.h"

namespace longhaul {
namespace {

std::string Hex(uint64_t high, uint64_t low) { return absl::StrFormat("%016x%016x", high, low); }

}  // namespace

std::string RequestId::ToString() const { return Hex(high, low); }

RequestId RequestId::Random() {
  std::random_device entropy;
  auto word = [&entropy] { return (uint64_t{entropy()} << 32) | entropy(); };
  return {.high = word(), .low = word()};
}

std::string Digest::ToString() const { return Hex(high, low); }

std::string Digest::ToBytes() const {
  std::string bytes(16, '\0');
  for (int i = 0; i < 8; ++i) {
    bytes[i] = static_cast<char>(high >> (56 - 8 * i));
    bytes[8 + i] = static_cast<char>(low >> (56 - 8 * i));
  }
  return bytes;
}

bool Digest::FromBytes(const std::string& bytes, Digest* digest) {
  if (bytes.size() != 16) return false;
  *digest = {};
  for (int i = 0; i < 8; ++i) {
    digest->high = digest->high << 8 | static_cast<uint8_t>(bytes[i]);
    digest->low = digest->low << 8 | static_cast<uint8_t>(bytes[8 + i]);
  }
  return true;
}

}  // namespace longhaul
