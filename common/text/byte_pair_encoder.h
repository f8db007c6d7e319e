#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "common/types.h"

namespace longhaul::text {

// Merges the bytes of a word into tokens: again and again the neighbouring pair whose merge was
// learned first (the lowest rank), the leftmost of several.
//
// O(n log n) for a word of n bytes. Knows ids only, neither strings nor words' bounds.
// Immutable after construction and thread-safe; what a call needs to work lies in its Workspace.
class BytePairEncoder {
 public:
  struct Merge {
    TokenId left;
    TokenId right;
    TokenId result;
  };

  // What one thread keeps from word to word: buffers and a cache of short words, which text
  // repeats. Bounded: 1 MiB and about 45 bytes per byte of the longest word. Thread-compatible.
  class Workspace;

  // `byte_tokens` are the tokens of the single bytes; `merges` are in order of rank. Of two merges
  // of one pair the later counts. Fewer than 2^31 merges; ids >= 0.
  BytePairEncoder(const std::array<TokenId, 256>& byte_tokens, std::span<const Merge> merges);

  // Appends the tokens of `word` to `out`. `word` has fewer than 2^31 bytes.
  void Encode(std::string_view word, Workspace& workspace, std::vector<TokenId>& out) const;

 private:
  static constexpr uint32_t kNoRank = UINT32_MAX;

  // Rank of the merge of a pair, kNoRank if there is none.
  uint32_t RankOf(TokenId left, TokenId right) const;
  void MergeWord(std::string_view word, Workspace& workspace, std::vector<TokenId>& out) const;

  std::array<TokenId, 256> byte_tokens_;
  std::vector<Merge> merges_;  // by rank
  // Open addressing with linear probing, at most half full, over the pairs: ranks of merges_.
  std::vector<uint32_t> slots_;
  int slot_shift_ = 0;
};

class BytePairEncoder::Workspace {
 public:
  Workspace() = default;

 private:
  friend class BytePairEncoder;

  // A word of at most kMaxBytes bytes and its tokens. Direct-mapped: a new word replaces an old
  // one.
  struct CachedWord {
    static constexpr size_t kMaxBytes = 15;
    static constexpr size_t kMaxTokens = 6;
    std::array<char, kMaxBytes> bytes;
    uint8_t num_bytes = 0;  // 0: empty
    std::array<TokenId, kMaxTokens> tokens;
    uint32_t num_tokens = 0;
  };
  static constexpr int kCacheBits = 14;
  static constexpr size_t kWordsBeforeCache = 256;  // shorter texts do not pay for its memory

  // A token of the word being merged, in a doubly linked list. -1 ends the list.
  struct Symbol {
    TokenId id;
    int32_t previous;
    int32_t next;
  };

  std::vector<CachedWord> cache_;
  size_t num_words_ = 0;
  std::vector<Symbol> symbols_;
  std::vector<uint64_t> heap_;  // rank << 32 | position: the least is merged next
};

}  // namespace longhaul::text
