#pragma once

#include <string>

#include "common/text/tokenizer.h"
#include "common/types.h"

namespace longhaul::text {

// Turns a stream of token ids into text as it comes.
//
// The concatenation of everything Push and Flush return is exactly
// Tokenizer::Decode(all ids, skip_special): a token may end inside a character, whose
// bytes are then held back (at most 3) until the next token completes them or shows that they are
// invalid, in which case they become U+FFFD. Every returned string is well-formed UTF-8. Knows
// nothing of stop strings. Thread-compatible.
class IncrementalDetokenizer {
 public:
  // `tokenizer` is borrowed and outlives this.
  explicit IncrementalDetokenizer(const Tokenizer& tokenizer, bool skip_special = true)
      : tokenizer_(tokenizer), skip_special_(skip_special) {}

  // Text that `id` completes; empty for skipped tokens and ids outside of the vocabulary.
  std::string Push(TokenId id);

  // What is held back, as text (U+FFFD, or nothing). The detokenizer can be used again afterwards.
  std::string Flush();

 private:
  const Tokenizer& tokenizer_;
  const bool skip_special_;
  std::string held_;  // the beginning of a character, at most 3 bytes between calls
};

}  // namespace longhaul::text
