#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/text/added_tokens.h"
#include "common/text/byte_pair_encoder.h"
#include "common/text/pre_tokenizer.h"
#include "common/text/tokenizer_file.h"
#include "common/text/whole_words.h"
#include "common/text/word_cache.h"
#include "common/types.h"

namespace longhaul::text {

// What Encode makes of the text of a special token (<|im_end|>), and what Decode makes of the
// token. Added tokens that are not special (<tool_call>) always match, as they do in Hugging Face.
enum class SpecialTokens {
  kAsText,  // Encode: plain text, which cannot direct the model. Decode: written out
  kParse,   // Encode: its token. Decode: written out
};

// Text to token ids and back, with the ids that Hugging Face's tokenizers library gives for the
// same tokenizer.json.
//
// Knows nothing of chats (chat_template.h) or streams (detokenizer.h).
// Immutable after Load and thread-safe. A call takes time linear in the text (n log n within a
// word), and memory of its own: 1 MiB and about 2 bytes for each byte of English, at most 70 (one
// endless word).
class Tokenizer {
 public:
  static constexpr size_t kMaxTextBytes = size_t{1} << 30;

  // Reads `model_dir`/tokenizer.json.
  // Errors: kNotFound if there is none; kUnimplemented names a setting that is not implemented;
  // kInvalidArgument for a file that is malformed.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const std::string& model_dir);

  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // Errors: kInvalidArgument if `utf8` is not UTF-8 (names the byte) or above kMaxTextBytes.
  absl::StatusOr<std::vector<TokenId>> Encode(std::string_view utf8, SpecialTokens mode) const;

  // As kParse within the ranges `markup` (bytes of `utf8`, sorted, disjoint), as kAsText elsewhere.
  // The ranges decide about special tokens only: words are split and merged across their bounds.
  absl::StatusOr<std::vector<TokenId>> EncodeMarked(std::string_view utf8,
                                                    std::span<const TextRange> markup) const;

  // Well-formed UTF-8: bytes that are none become U+FFFD. Ids outside of the vocabulary are
  // skipped, as Hugging Face does; who wants them refused calls CheckIds first.
  std::string Decode(std::span<const TokenId> ids, bool skip_special) const;

  // kInvalidArgument naming the first of `ids` that is no token, its place and the vocabulary's
  // size.
  absl::Status CheckIds(std::span<const TokenId> ids) const;

  // The bytes a token stands for, perhaps part of a character; of an added token its content.
  // Empty exactly for an id outside of the vocabulary. A look-up; the view lives as long as the
  // tokenizer.
  std::string_view TokenBytes(TokenId id) const;

  bool IsSpecial(TokenId id) const;

  // The id of an added token, special or not ("<|im_end|>").
  std::optional<TokenId> TokenIdOf(std::string_view added_token) const;

  // One above the highest id. A model's own vocabulary may be padded beyond it.
  int32_t vocab_size() const { return static_cast<int32_t>(token_bytes_.size()); }

 private:
  Tokenizer(TokenizerFile file, PreTokenizer pre_tokenizer);

  // What one call keeps from word to word.
  struct Workspace {
    BytePairEncoder::Workspace encoder;
    WordCache cache;
  };

  absl::Status EncodePlain(std::string_view text, Workspace& workspace,
                           std::vector<TokenId>& ids) const;
  void EncodeWord(std::string_view word, Workspace& workspace, std::vector<TokenId>& ids) const;

  const std::vector<std::string> token_bytes_;  // by id; empty: no such token
  const AddedTokens added_tokens_;
  const BytePairEncoder encoder_;
  const WholeWords whole_words_;
  const PreTokenizer pre_tokenizer_;
  std::vector<bool> is_special_;  // by id
};

}  // namespace longhaul::text
