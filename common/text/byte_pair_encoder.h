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

  // The buffers that one thread keeps from word to word. Bounded: about 8 bytes for each byte of
  // the longest word, and 60 KiB (36 for each byte where merges were not learned from text, see
  // MergeLong). Thread-compatible.
  class Workspace;

  // `byte_tokens` are the tokens of the single bytes; `merges` are in order of rank. Of two merges
  // of one pair the later counts. Fewer than 2^31 merges; ids >= 0.
  BytePairEncoder(const std::array<TokenId, 256>& byte_tokens, std::span<const Merge> merges);

  // Appends the tokens of `word` to `out`. `word` has fewer than 2^31 bytes.
  void Encode(std::string_view word, Workspace& workspace, std::vector<TokenId>& out) const;

 private:
  static constexpr uint32_t kNoRank = UINT32_MAX;

  // A merge by its pair.
  struct Slot {
    TokenId left = -1;
    TokenId right = -1;
    uint32_t rank = kNoRank;  // kNoRank: empty
    TokenId result = -1;
  };

  // A token and the bytes it covers.
  struct Piece {
    TokenId id;
    uint32_t num_bytes;
  };

  // The merge of a pair; an empty slot if there is none.
  const Slot& Find(TokenId left, TokenId right) const;

  // All three put the tokens of `word` into `out`, replacing what was there. They differ in cost:
  // quadratic with a small constant; a heap, O(n log n); windows that stay in the processor's
  // cache.
  void MergeShort(std::string_view word, std::vector<Piece>& out) const;
  void MergeByHeap(std::string_view word, Workspace& workspace, std::vector<Piece>& out) const;
  void MergeLong(std::string_view word, Workspace& workspace, std::vector<Piece>& out) const;
  void MergeWord(std::string_view word, Workspace& workspace, std::vector<Piece>& out) const;

  // True if the bytes of these tokens, which meet at byte `border` of `word`, merge to them again.
  bool Neighbours(std::string_view word, size_t border, Piece left, Piece right,
                  Workspace& workspace) const;

  std::array<TokenId, 256> byte_tokens_;
  std::vector<Slot> slots_;  // open addressing with linear probing, at most 2/3 full
  int slot_shift_ = 0;
};

class BytePairEncoder::Workspace {
 public:
  Workspace() = default;

 private:
  friend class BytePairEncoder;

  // A token of the word being merged, in a doubly linked list (-1 ends it), and the merge of it and
  // the next one.
  struct Symbol {
    TokenId id;
    int32_t previous;
    int32_t next;
    uint32_t rank;  // kNoRank: none
    TokenId result;
  };

  std::vector<Symbol> symbols_;
  std::vector<uint64_t> heap_;  // rank << 32 | position: the least is merged next
  std::vector<Piece> pieces_;   // of the word
  std::vector<Piece> window_;   // of a window of a long word
  std::vector<Piece> bridge_;   // of bytes on both sides of a window's border
  std::vector<Piece> pair_;     // of two neighbours
};

}  // namespace longhaul::text
