#include "common/text/tokenizer_file.h"

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/text/byte_level.h"
#include "common/text/pre_tokenizer.h"

namespace longhaul::text {
namespace {

using Json = nlohmann::json;
using Vocabulary = std::unordered_map<std::string, TokenId>;  // as the file spells the tokens

constexpr TokenId kMaxTokenId = 1 << 22;  // a bound on what a hostile file can make us allocate

// Null where `object` is none or has no such key, as Hugging Face reads a missing field.
const Json& Field(const Json& object, const char* key) {
  static const Json kNull;
  if (!object.is_object()) return kNull;
  const auto it = object.find(key);
  return it == object.end() ? kNull : *it;
}

std::string Shown(const Json& value) {
  constexpr size_t kMaxShown = 200;
  std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > kMaxShown) text = text.substr(0, kMaxShown) + "...";
  return text;
}

// The field `key` of the object called `where` has one of the values that mean what we do.
absl::Status RequireOneOf(const Json& object, std::string_view where, const char* key,
                          std::initializer_list<Json> supported) {
  const Json& value = Field(object, key);
  if (std::ranges::find(supported, value) != supported.end()) return absl::OkStatus();
  return absl::UnimplementedError(absl::StrCat(std::string(where), ".", key, " is ", Shown(value),
                                               ", supported: ", Shown(*supported.begin())));
}

absl::Status CheckByteLevel(const Json& step, const std::string& where) {
  RETURN_IF_ERROR(RequireOneOf(step, where, "type", {"ByteLevel"}));
  RETURN_IF_ERROR(RequireOneOf(step, where, "add_prefix_space", {false}));
  return RequireOneOf(step, where, "use_regex", {false});
}

absl::Status CheckPreTokenizer(const Json& pre_tokenizer) {
  RETURN_IF_ERROR(RequireOneOf(pre_tokenizer, "pre_tokenizer", "type", {"Sequence"}));
  const Json& steps = Field(pre_tokenizer, "pretokenizers");
  if (!steps.is_array() || steps.size() != 2) {
    return absl::UnimplementedError(
        absl::StrCat("pre_tokenizer.pretokenizers is ", Shown(steps),
                     ", supported: Split by Qwen2.5's pattern, then ByteLevel"));
  }
  const std::string where = "pre_tokenizer.pretokenizers[0]";
  RETURN_IF_ERROR(RequireOneOf(steps[0], where, "type", {"Split"}));
  RETURN_IF_ERROR(RequireOneOf(steps[0], where, "behavior", {"Isolated"}));
  RETURN_IF_ERROR(RequireOneOf(steps[0], where, "invert", {false}));
  RETURN_IF_ERROR(RequireOneOf(Field(steps[0], "pattern"), where + ".pattern", "Regex",
                               {std::string(kQwenSplitPattern)}));
  return CheckByteLevel(steps[1], "pre_tokenizer.pretokenizers[1]");
}

// Everything of the file that changes ids or text and of which only one value is implemented.
absl::Status CheckSettings(const Json& file) {
  RETURN_IF_ERROR(RequireOneOf(file, "tokenizer", "truncation", {nullptr}));
  RETURN_IF_ERROR(RequireOneOf(file, "tokenizer", "padding", {nullptr}));
  RETURN_IF_ERROR(RequireOneOf(Field(file, "normalizer"), "normalizer", "type", {"NFC"}));
  RETURN_IF_ERROR(CheckPreTokenizer(Field(file, "pre_tokenizer")));
  if (const Json& post = Field(file, "post_processor"); !post.is_null()) {
    RETURN_IF_ERROR(RequireOneOf(post, "post_processor", "type", {"ByteLevel"}));
  }
  RETURN_IF_ERROR(RequireOneOf(Field(file, "decoder"), "decoder", "type", {"ByteLevel"}));

  const Json& model = Field(file, "model");
  RETURN_IF_ERROR(RequireOneOf(model, "model", "type", {"BPE"}));
  RETURN_IF_ERROR(RequireOneOf(model, "model", "dropout", {nullptr, 0.0}));
  RETURN_IF_ERROR(RequireOneOf(model, "model", "unk_token", {nullptr}));
  RETURN_IF_ERROR(RequireOneOf(model, "model", "continuing_subword_prefix", {nullptr, ""}));
  RETURN_IF_ERROR(RequireOneOf(model, "model", "end_of_word_suffix", {nullptr, ""}));
  RETURN_IF_ERROR(RequireOneOf(model, "model", "byte_fallback", {false, nullptr}));
  return RequireOneOf(model, "model", "ignore_merges", {false, nullptr});
}

absl::StatusOr<TokenId> ParseId(const Json& value, const std::string& token) {
  if (!value.is_number_integer() || value < 0 || value > kMaxTokenId) {
    return absl::InvalidArgumentError(absl::StrCat("token '", token, "' has the id ", Shown(value),
                                                   ", allowed: 0 to ", kMaxTokenId));
  }
  return value.get<TokenId>();
}

// Puts `bytes` at `id`, which is free.
absl::Status Place(TokenId id, const std::string& token, std::string bytes, TokenizerFile& result) {
  const auto index = static_cast<size_t>(id);
  if (index >= result.token_bytes.size()) result.token_bytes.resize(index + 1);
  if (!result.token_bytes[index].empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("token '", token, "' has the id ", id, ", which another token has too"));
  }
  result.token_bytes[index] = std::move(bytes);
  return absl::OkStatus();
}

absl::StatusOr<Vocabulary> ParseVocabulary(const Json& vocab, TokenizerFile& result) {
  if (!vocab.is_object()) return absl::InvalidArgumentError("model.vocab is no object");
  Vocabulary vocabulary;
  vocabulary.reserve(vocab.size());
  result.token_bytes.reserve(vocab.size());
  result.byte_tokens.fill(-1);
  for (const auto& [token, value] : vocab.items()) {
    ASSIGN_OR_RETURN(const TokenId id, ParseId(value, token));
    std::optional<std::string> bytes = ByteLevelToBytes(token);
    if (!bytes.has_value() || bytes->empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("token '", token, "' (id ", id, ") is not written in byte-level letters"));
    }
    if (bytes->size() == 1) result.byte_tokens[static_cast<uint8_t>(bytes->front())] = id;
    RETURN_IF_ERROR(Place(id, token, *std::move(bytes), result));
    vocabulary.emplace(token, id);
  }
  for (int byte = 0; byte < 256; ++byte) {
    if (result.byte_tokens[static_cast<size_t>(byte)] < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("model.vocab has no token for the byte ", byte));
    }
  }
  return vocabulary;
}

absl::StatusOr<std::pair<std::string, std::string>> ParseMerge(const Json& merge) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    return std::pair(merge[0].get<std::string>(), merge[1].get<std::string>());
  }
  if (merge.is_string()) {
    const std::string& text = merge.get_ref<const std::string&>();
    const size_t space = text.find(' ');
    if (space != std::string::npos && text.find(' ', space + 1) == std::string::npos) {
      return std::pair(text.substr(0, space), text.substr(space + 1));
    }
  }
  return absl::InvalidArgumentError(absl::StrCat("it is ", Shown(merge), ", no pair of tokens"));
}

absl::Status ParseMerges(const Json& merges, const Vocabulary& vocabulary, TokenizerFile& result) {
  if (!merges.is_array()) return absl::InvalidArgumentError("model.merges is no array");
  result.merges.reserve(merges.size());
  for (const Json& value : merges) {
    const std::string where = absl::StrCat("model.merges[", result.merges.size(), "]");
    auto merge = ParseMerge(value);
    RETURN_IF_ERROR(merge.status()) << where;
    const auto& [left, right] = *merge;
    std::array<TokenId, 3> ids{};
    const std::array<std::string, 3> tokens = {left, right, left + right};
    for (size_t i = 0; i < tokens.size(); ++i) {
      const auto it = vocabulary.find(tokens[i]);
      if (it == vocabulary.end()) {
        return absl::InvalidArgumentError(
            absl::StrCat(where, " needs the token '", tokens[i], "', which model.vocab lacks"));
      }
      ids[i] = it->second;
    }
    result.merges.push_back({.left = ids[0], .right = ids[1], .result = ids[2]});
  }
  return absl::OkStatus();
}

absl::Status ParseAddedTokens(const Json& added, const Vocabulary& vocabulary,
                              TokenizerFile& result) {
  if (added.is_null()) return absl::OkStatus();
  if (!added.is_array()) return absl::InvalidArgumentError("added_tokens is no array");
  for (const Json& token : added) {
    const std::string where = absl::StrCat("added_tokens[", result.added_tokens.size(), "]");
    const Json& content = Field(token, "content");
    if (!content.is_string() || content.get_ref<const std::string&>().empty()) {
      return absl::InvalidArgumentError(absl::StrCat(where, ".content is ", Shown(content)));
    }
    for (const char* flag : {"single_word", "lstrip", "rstrip", "normalized"}) {
      RETURN_IF_ERROR(RequireOneOf(token, where, flag, {false}));
    }
    if (!Field(token, "special").is_boolean()) {
      return absl::InvalidArgumentError(
          absl::StrCat(where, ".special is ", Shown(Field(token, "special"))));
    }
    AddedToken parsed{.id = 0, .content = content, .special = Field(token, "special")};
    ASSIGN_OR_RETURN(parsed.id, ParseId(Field(token, "id"), parsed.content));
    // Decoding maps an added token's letters to bytes too, where all of them are byte-level
    // letters.
    const auto it = vocabulary.find(parsed.content);
    if (it == vocabulary.end()) {
      RETURN_IF_ERROR(Place(parsed.id, parsed.content,
                            ByteLevelToBytes(parsed.content).value_or(parsed.content), result));
    } else if (it->second != parsed.id) {
      return absl::InvalidArgumentError(absl::StrCat(where, " '", parsed.content, "' has the id ",
                                                     parsed.id, ", in model.vocab it has ",
                                                     it->second));
    }
    result.added_tokens.push_back(std::move(parsed));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TokenizerFile> ParseTokenizerFile(const std::string& json) {
  const Json file = Json::parse(json, /*cb=*/nullptr, /*allow_exceptions=*/false);
  if (file.is_discarded()) return absl::InvalidArgumentError("it is not valid JSON");
  RETURN_IF_ERROR(CheckSettings(file));
  TokenizerFile result;
  const Json& model = Field(file, "model");
  ASSIGN_OR_RETURN(const Vocabulary vocabulary, ParseVocabulary(Field(model, "vocab"), result));
  RETURN_IF_ERROR(ParseMerges(Field(model, "merges"), vocabulary, result));
  RETURN_IF_ERROR(ParseAddedTokens(Field(file, "added_tokens"), vocabulary, result));
  return result;
}

}  // namespace longhaul::text
