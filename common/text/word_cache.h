#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "common/text/word_key.h"
#include "common/types.h"

namespace longhaul::text {

// Remembers the tokens of short words, which text repeats.
//
// Bounded: 1 MiB, taken only once kWordsBeforeCache words were asked for, so that short texts do
// not pay for it. Each place holds one word, and a new word replaces the old one: whatever the
// words, a call takes constant time. Thread-compatible; one for each text.
class WordCache {
 public:
  static constexpr size_t kMaxTokens = 7;

  // The tokens of a word, empty if they are not known. Valid until the next Insert.
  std::span<const TokenId> Find(const WordKey& key) {
    if (entries_.empty()) {
      if (++num_words_ < kWordsBeforeCache) return {};
      entries_.resize(size_t{1} << kCacheBits);
    }
    const Entry& entry = entries_[key.hash() >> (64 - kCacheBits)];
    if (entry.key != key) return {};
    return {entry.tokens.data(), entry.num_tokens};
  }

  // Remembers a word that Find did not know, unless its key does not hold it, or it has too many
  // tokens.
  void Insert(const WordKey& key, std::span<const TokenId> tokens);

 private:
  static constexpr int kCacheBits = 14;
  static constexpr size_t kWordsBeforeCache = 256;

  struct Entry {
    WordKey key;
    std::array<TokenId, kMaxTokens> tokens;
    uint32_t num_tokens = 0;
  };

  std::vector<Entry> entries_;
  size_t num_words_ = 0;
};

}  // namespace longhaul::text
