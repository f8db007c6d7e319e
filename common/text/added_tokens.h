#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/types.h"

namespace longhaul::text {

// A token that is matched in the text itself, before words are split and merged.
struct AddedToken {
  TokenId id;
  std::string content;  // not empty, well-formed UTF-8
  bool special;         // directs the model (end of turn), as opposed to being text (<tool_call>)
};

// Half-open range of bytes.
struct TextRange {
  size_t begin;
  size_t end;
};

// The added tokens of a vocabulary and where they stand in a text. Immutable and thread-safe.
class AddedTokens {
 public:
  struct Match {
    TextRange range;
    TokenId id;
  };

  explicit AddedTokens(std::vector<AddedToken> tokens);
  AddedTokens(const AddedTokens&) = delete;
  AddedTokens& operator=(const AddedTokens&) = delete;

  // All matches in order, without overlap: leftmost first, of those that begin together the
  // longest. A special token matches only wholly within one range of `markup` (sorted, disjoint),
  // any other token anywhere.
  std::vector<Match> FindAll(std::string_view text, std::span<const TextRange> markup) const;

  // Null if `content` is no added token. The pointer lives as long as this.
  const AddedToken* Find(std::string_view content) const;

  std::span<const AddedToken> tokens() const { return tokens_; }

 private:
  std::vector<AddedToken> tokens_;  // longest first
  // Tokens by their first byte, longest first; most bytes begin none.
  std::array<std::vector<const AddedToken*>, 256> by_first_byte_;
  std::optional<char> only_first_byte_;  // if all tokens begin with one byte
};

}  // namespace longhaul::text
