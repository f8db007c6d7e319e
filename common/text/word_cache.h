#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "common/types.h"

namespace longhaul::text {

// Remembers the tokens of short words, which text repeats.
//
// Bounded: 1 MiB, taken only once kWordsBeforeCache words were asked for, so that short texts do
// not pay for it. Each place holds one word, and a new word replaces the old one: whatever the
// words, a call takes constant time. Thread-compatible; one for each text.
class WordCache {
 public:
  static constexpr size_t kMaxBytes = 15;  // of a word
  static constexpr size_t kMaxTokens = 7;

  // The tokens of `word`, empty if they are not known. Valid until the next Insert. `hash` is
  // HashWord(word).
  std::span<const TokenId> Find(std::string_view word, uint64_t hash) {
    if (word.size() > kMaxBytes || word.empty()) return {};
    if (entries_.empty()) {
      if (++num_words_ < kWordsBeforeCache) return {};
      entries_.resize(size_t{1} << kCacheBits);
    }
    const Entry& entry = entries_[hash >> (64 - kCacheBits)];
    if (entry.key != KeyOf(word)) return {};
    return {entry.tokens.data(), entry.num_tokens};
  }

  // Remembers a word that Find did not know, unless it is too long or has too many tokens.
  void Insert(std::string_view word, uint64_t hash, std::span<const TokenId> tokens);

 private:
  static constexpr int kCacheBits = 14;
  static constexpr size_t kWordsBeforeCache = 256;

  // The word's bytes, zeros behind them, and its length in the last byte.
  using Key = std::array<uint64_t, 2>;
  static Key KeyOf(std::string_view word);

  struct Entry {
    Key key = {};  // of length 0: no word
    std::array<TokenId, kMaxTokens> tokens;
    uint32_t num_tokens = 0;
  };

  std::vector<Entry> entries_;
  size_t num_words_ = 0;
};

}  // namespace longhaul::text
