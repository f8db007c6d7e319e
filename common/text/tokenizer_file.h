#pragma once

#include <array>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/text/added_tokens.h"
#include "common/text/byte_pair_encoder.h"
#include "common/types.h"

namespace longhaul::text {

// What a Hugging Face tokenizer.json says, checked, for the kind of tokenizer that Qwen2.5 has:
// byte-level BPE, NFC, kQwenSplitPattern.
struct TokenizerFile {
  std::vector<std::string> token_bytes;  // by id, added tokens included; empty: no such token
  std::array<TokenId, 256> byte_tokens;
  std::vector<BytePairEncoder::Merge> merges;  // by rank
  std::vector<AddedToken> added_tokens;
};

// Parses the text of the file. Merges may be "a b" strings or [a, b] pairs.
// Errors: kUnimplemented names a setting that this code does not implement (it would give other ids
// than the model was trained with); kInvalidArgument for what is no such file or contradicts
// itself.
absl::StatusOr<TokenizerFile> ParseTokenizerFile(const std::string& json);

}  // namespace longhaul::text
