#pragma once

#include <memory>
#include <string_view>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

struct pcre2_real_code_8;

namespace longhaul::text {

// The pattern of Qwen2.5's pre-tokenizer, as its tokenizer.json writes it.
inline constexpr std::string_view kQwenSplitPattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
    R"(\s*[\r\n]+|\s+(?!\S)|\s+)";

// Splits text into the stretches within which tokens are merged, by kQwenSplitPattern.
//
// The usual words of ASCII are found by hand, the others with PCRE2, which is made to match what
// Hugging Face's engine matches: the same white space, and the letters and numbers of Unicode 16
// (Debian's PCRE2 has those of 14). Linear in the length of the text for any
// input. Immutable after Create and thread-safe.
class PreTokenizer {
 public:
  // Errors: kInternal if PCRE2 refuses the pattern (a build of it without Unicode, say).
  static absl::StatusOr<PreTokenizer> Create();

  // Calls `on_word` with each word in turn: views into `text`, which is well-formed UTF-8; together
  // they are the whole text, none is empty. (There are millions; a list of them would be larger
  // than the text.)
  // Errors: kResourceExhausted if PCRE2 runs out of memory; some words were seen by then.
  absl::Status Split(std::string_view text,
                     absl::FunctionRef<void(std::string_view)> on_word) const;

 private:
  struct CodeDeleter {
    void operator()(pcre2_real_code_8* code) const;
  };
  using Code = std::unique_ptr<pcre2_real_code_8, CodeDeleter>;

  explicit PreTokenizer(Code code);

  Code code_;
};

}  // namespace longhaul::text
