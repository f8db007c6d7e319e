#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace longhaul::text {

// A quick hash of a short word, good in all of its 64 bits. Not keyed: who chooses words can make
// them collide, so tables that use it bound what a collision costs. Pure.
inline uint64_t HashWord(std::string_view word) {
  constexpr uint64_t kMultiplier = 0x9E3779B97F4A7C15ULL;  // 2^64 / golden ratio
  const auto load = [&word](size_t offset, size_t count) {
    uint64_t value = 0;
    std::memcpy(&value, word.data() + offset, count);
    return value;
  };
  const auto mix = [](uint64_t a, uint64_t b) {
    const auto product = static_cast<unsigned __int128>(a) * b;
    return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
  };
  uint64_t hash = word.size() * kMultiplier;
  size_t offset = 0;
  for (; offset + 16 < word.size(); offset += 8) {
    hash = mix(hash ^ load(offset, 8), kMultiplier);
  }
  // At most 16 bytes are left: two loads, which overlap if there are fewer.
  const size_t left = word.size() - offset;
  uint64_t first = 0;
  uint64_t second = 0;
  if (left >= 8) {
    first = load(offset, 8);
    second = load(word.size() - 8, 8);
  } else if (left >= 4) {
    first = load(offset, 4);
    second = load(word.size() - 4, 4);
  } else if (left > 0) {
    first = static_cast<uint8_t>(word[offset]);
    second = static_cast<uint64_t>(static_cast<uint8_t>(word[offset + left / 2])) << 8 |
             static_cast<uint8_t>(word[word.size() - 1]);
  }
  return mix(hash ^ first ^ 0xA0761D6478BD642FULL,
             mix(second ^ kMultiplier, 0xE7037ED1A0B428DBULL));
}

}  // namespace longhaul::text
