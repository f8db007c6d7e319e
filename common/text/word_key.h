#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace longhaul::text {

// A word as two numbers, to find it in a table. Of a word of at most kMaxBytes bytes they hold the
// bytes themselves, so that equal keys are equal words; of a longer one only its length and a hash
// that is not keyed: who chooses words can make them collide. Value type.
class WordKey {
 public:
  static constexpr size_t kMaxBytes = 15;

  WordKey() = default;  // of no word: equal to no other key

  explicit WordKey(std::string_view word) {
    // Two loads that overlap, shifted to where they belong: quicker than copying a length that
    // only the running program knows.
    const size_t size = word.size();
    if (size > kMaxBytes) {
      low_ = HashLong(word);
      high_ = kLong | (uint64_t{size} & ~kLong);
      return;
    }
    high_ = uint64_t{size} << 56;
    if (size > 8) {
      low_ = Load<uint64_t>(word, 0);
      high_ |= Load<uint64_t>(word, size - 8) >> 8 * (16 - size);
    } else if (size == 8) {
      low_ = Load<uint64_t>(word, 0);
    } else if (size >= 4) {
      low_ = Load<uint32_t>(word, 0) | Load<uint32_t>(word, size - 4) << 8 * (size - 4);
    } else if (size >= 2) {
      low_ = Load<uint16_t>(word, 0) | Load<uint16_t>(word, size - 2) << 8 * (size - 2);
    } else if (size == 1) {
      low_ = static_cast<uint8_t>(word[0]);
    }
  }

  bool operator==(const WordKey&) const = default;

  // True if equal keys are equal words.
  bool holds_word() const { return high_ < kLong; }

  // Good in all of its bits.
  uint64_t hash() const { return Mix(low_ ^ 0xA0761D6478BD642FULL, high_ ^ 0xE7037ED1A0B428DBULL); }

 private:
  static constexpr uint64_t kLong = uint64_t{0xFF} << 56;  // where a short word has its length

  template <typename Number>
  static uint64_t Load(std::string_view word, size_t offset) {
    Number number = 0;
    std::memcpy(&number, word.data() + offset, sizeof(number));
    return number;
  }

  // Folds the product of both: every bit depends on all of them.
  static uint64_t Mix(uint64_t a, uint64_t b) {
    const auto product = static_cast<unsigned __int128>(a) * b;
    return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
  }

  static uint64_t HashLong(std::string_view word) {
    constexpr uint64_t kMultiplier = 0x9E3779B97F4A7C15ULL;  // 2^64 / golden ratio
    uint64_t hash = word.size();
    size_t offset = 0;
    for (; offset + 8 < word.size(); offset += 8) {
      hash = Mix(hash ^ Load<uint64_t>(word, offset), kMultiplier);
    }
    return Mix(hash ^ Load<uint64_t>(word, word.size() - 8), kMultiplier);
  }

  uint64_t low_ = 0;
  uint64_t high_ = uint64_t{0x80} << 56;  // of the length 128, which neither kind of word has
};

}  // namespace longhaul::text
