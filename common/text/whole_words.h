#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/text/byte_pair_encoder.h"
#include "common/text/word_key.h"
#include "common/types.h"

namespace longhaul::text {

// The words that are one token, which in natural text most words are: finding one takes a look-up
// where merging its bytes takes many.
//
// A token counts only if its bytes merge to exactly it, which is tried for each. Immutable after
// construction and thread-safe. Hashes are not keyed, but the words in the table are the
// vocabulary's, so a stranger's text cannot lengthen the probing.
class WholeWords {
 public:
  static constexpr TokenId kNone = -1;

  // `token_bytes`, by id, are borrowed and outlive this.
  WholeWords(const BytePairEncoder& encoder, std::span<const std::string> token_bytes);

  // The token of `word`, kNone if it takes several. `key` is WordKey(word).
  TokenId Find(std::string_view word, const WordKey& key) const;

 private:
  struct Slot {
    WordKey key;
    TokenId id = kNone;  // kNone: empty
  };

  std::span<const std::string> token_bytes_;
  std::vector<Slot> slots_;  // open addressing with linear probing, at most 2/3 full
};

}  // namespace longhaul::text
