#include "common/text/tokenizer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "common/text/normalizer.h"
#include "common/text/text_file.h"
#include "common/text/utf8.h"
#include "common/text/word_key.h"

namespace longhaul::text {

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(const std::string& model_dir) {
  constexpr size_t kMaxFileBytes = size_t{256} << 20;
  const std::string path = absl::StrCat(model_dir, "/tokenizer.json");
  ASSIGN_OR_RETURN(const std::string json, ReadTextFile(path, kMaxFileBytes));
  absl::StatusOr<TokenizerFile> file = ParseTokenizerFile(json);
  RETURN_IF_ERROR(file.status()) << path;
  ASSIGN_OR_RETURN(PreTokenizer pre_tokenizer, PreTokenizer::Create());
  return std::unique_ptr<Tokenizer>(new Tokenizer(*std::move(file), std::move(pre_tokenizer)));
}

Tokenizer::Tokenizer(TokenizerFile file, PreTokenizer pre_tokenizer)
    : token_bytes_(std::move(file.token_bytes)),
      added_tokens_(std::move(file.added_tokens)),
      encoder_(file.byte_tokens, file.merges),
      whole_words_(encoder_, token_bytes_),
      pre_tokenizer_(std::move(pre_tokenizer)),
      is_special_(token_bytes_.size()) {
  for (const AddedToken& token : added_tokens_.tokens()) {
    if (token.special) is_special_[static_cast<size_t>(token.id)] = true;
  }
}

absl::StatusOr<std::vector<TokenId>> Tokenizer::Encode(std::string_view utf8,
                                                       SpecialTokens mode) const {
  const TextRange everything{.begin = 0, .end = utf8.size()};
  return EncodeMarked(utf8, std::span(&everything, mode == SpecialTokens::kParse ? 1 : 0));
}

absl::StatusOr<std::vector<TokenId>> Tokenizer::EncodeMarked(
    std::string_view utf8, std::span<const TextRange> markup) const {
  if (utf8.size() > kMaxTextBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("text to encode has ", utf8.size(), " bytes, limit ", kMaxTextBytes));
  }
  if (const size_t offset = FindInvalidUtf8(utf8); offset != std::string_view::npos) {
    return absl::InvalidArgumentError(absl::StrCat("text is not UTF-8 at byte ", offset));
  }
  std::vector<TokenId> ids;
  ids.reserve(utf8.size() / 4);
  Workspace workspace;
  size_t begin = 0;
  for (const AddedTokens::Match& match : added_tokens_.FindAll(utf8, markup)) {
    RETURN_IF_ERROR(EncodePlain(utf8.substr(begin, match.range.begin - begin), workspace, ids));
    ids.push_back(match.id);
    begin = match.range.end;
  }
  RETURN_IF_ERROR(EncodePlain(utf8.substr(begin), workspace, ids));
  return ids;
}

absl::Status Tokenizer::EncodePlain(std::string_view text, Workspace& workspace,
                                    std::vector<TokenId>& ids) const {
  if (text.empty()) return absl::OkStatus();
  const std::optional<std::string> normalized = NormalizeNfc(text);
  if (normalized.has_value()) text = *normalized;
  return pre_tokenizer_.Split(text,
                              [&](std::string_view word) { EncodeWord(word, workspace, ids); });
}

// A word is most often one that the text had before, or else one of the vocabulary.
void Tokenizer::EncodeWord(std::string_view word, Workspace& workspace,
                           std::vector<TokenId>& ids) const {
  const WordKey key(word);
  if (const auto known = workspace.cache.Find(key); !known.empty()) {
    ids.insert(ids.end(), known.begin(), known.end());
    return;
  }
  const size_t begin = ids.size();
  if (const TokenId id = whole_words_.Find(word, key); id != WholeWords::kNone) {
    ids.push_back(id);
  } else {
    encoder_.Encode(word, workspace.encoder, ids);
  }
  workspace.cache.Insert(key, std::span(ids).subspan(begin));
}

std::string Tokenizer::Decode(std::span<const TokenId> ids, bool skip_special) const {
  std::string bytes;
  for (const TokenId id : ids) {
    if (!skip_special || !IsSpecial(id)) bytes.append(TokenBytes(id));
  }
  std::string text;
  text.reserve(bytes.size());
  AppendWellFormed(bytes, Continuation::kNone, text);
  return text;
}

absl::Status Tokenizer::CheckIds(std::span<const TokenId> ids) const {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (TokenBytes(ids[i]).empty()) {
      return absl::InvalidArgumentError(absl::StrCat("token ", i, " has the id ", ids[i],
                                                     ", which is not in the vocabulary (",
                                                     vocab_size(), " ids from 0)"));
    }
  }
  return absl::OkStatus();
}

std::string_view Tokenizer::TokenBytes(TokenId id) const {
  if (id < 0 || id >= vocab_size()) return {};
  return token_bytes_[static_cast<size_t>(id)];
}

bool Tokenizer::IsSpecial(TokenId id) const {
  return id >= 0 && id < vocab_size() && is_special_[static_cast<size_t>(id)];
}

std::optional<TokenId> Tokenizer::TokenIdOf(std::string_view added_token) const {
  const AddedToken* token = added_tokens_.Find(added_token);
  if (token == nullptr) return std::nullopt;
  return token->id;
}

}  // namespace longhaul::text
