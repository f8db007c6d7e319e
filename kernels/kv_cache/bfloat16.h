#pragma once

#include <bit>
#include <cstdint>

namespace longhaul::kernels {

// bfloat16 as its bits: the upper half of a float. The type of matrices on CUDA devices.
struct BFloat16 {
  uint16_t bits = 0;
};

// Exact.
constexpr float BFloat16ToFloat(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

// Round to nearest, ties to even; overflow goes to infinity, a NaN stays a (quiet) NaN.
constexpr uint16_t FloatToBFloat16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

}  // namespace longhaul::kernels
