// A tokenizer.json of foreign bytes: refused, or it makes a tokenizer that gives text back, and
// whose merges are those of the simplest possible merging.
#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "common/logging.h"
#include "common/text/byte_pair_encoder.h"
#include "common/text/detokenizer.h"
#include "common/text/normalizer.h"
#include "common/text/tokenizer.h"
#include "common/text/tokenizer_file.h"
#include "common/text/utf8.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/fuzz/tokenizer_json.h"
#include "tests/testing/temp_dir.h"

namespace longhaul::text {
namespace {

using Json = nlohmann::json;

// A vocabulary that only a much larger input could need takes seconds to fill.
constexpr TokenId kMaxId = 1 << 18;
constexpr size_t kMaxText = 512;

// Byte pair encoding word for word as it is defined.
std::vector<TokenId> NaiveEncode(const TokenizerFile& file, std::string_view word) {
  std::vector<TokenId> ids;
  for (const char byte : word) ids.push_back(file.byte_tokens[static_cast<uint8_t>(byte)]);
  // Of two merges of one pair the later counts.
  const auto rank_of = [&](size_t i) {
    for (size_t rank = file.merges.size(); rank-- > 0;) {
      const BytePairEncoder::Merge& merge = file.merges[rank];
      if (merge.left == ids[i] && merge.right == ids[i + 1]) return rank;
    }
    return file.merges.size();
  };
  while (ids.size() > 1) {
    size_t best = file.merges.size();
    size_t where = 0;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      if (const size_t rank = rank_of(i); rank < best) {
        best = rank;
        where = i;
      }
    }
    if (best == file.merges.size()) break;
    ids[where] = file.merges[best].result;
    ids.erase(ids.begin() + static_cast<ptrdiff_t>(where) + 1);
  }
  return ids;
}

void CheckFile(const TokenizerFile& file) {
  const auto bytes = [&file](TokenId id) -> const std::string& {
    CHECK(id >= 0 && static_cast<size_t>(id) < file.token_bytes.size()) << id;
    return file.token_bytes[static_cast<size_t>(id)];
  };
  for (size_t byte = 0; byte < 256; ++byte) {
    CHECK(bytes(file.byte_tokens[byte]) == std::string(1, static_cast<char>(byte))) << byte;
  }
  for (const BytePairEncoder::Merge& merge : file.merges) {
    CHECK(bytes(merge.left) + bytes(merge.right) == bytes(merge.result)) << merge.result;
  }
  for (const AddedToken& token : file.added_tokens) {
    CHECK(!token.content.empty() && FindInvalidUtf8(token.content) == std::string::npos);
    CHECK(!bytes(token.id).empty()) << token.id;
  }
}

void CheckText(const Tokenizer& tokenizer, const TokenizerFile& file, std::string_view text,
               SpecialTokens mode) {
  const auto ids = tokenizer.Encode(text, mode);
  if (FindInvalidUtf8(text) != std::string::npos) {
    CHECK(absl::IsInvalidArgument(ids.status())) << ids.status();
    return;
  }
  CHECK(ids.ok()) << ids.status();
  std::string bytes;
  for (const TokenId id : *ids) {
    CHECK(!tokenizer.TokenBytes(id).empty()) << id;
    bytes += tokenizer.TokenBytes(id);
  }
  const std::string decoded = tokenizer.Decode(*ids, /*skip_special=*/false);
  CHECK(FindInvalidUtf8(decoded) == std::string::npos);
  // An added token's letters may be read as bytes, so only what has none comes back as it was.
  if (file.added_tokens.empty()) {
    CHECK(bytes == NormalizeNfc(text).value_or(std::string(text))) << bytes;
    CHECK(decoded == bytes);
  }
  IncrementalDetokenizer incremental(tokenizer);
  std::string pieces;
  for (const TokenId id : *ids) {
    const std::string piece = incremental.Push(id);
    CHECK(FindInvalidUtf8(piece) == std::string::npos) << piece;
    pieces += piece;
  }
  pieces += incremental.Flush();
  CHECK(pieces == tokenizer.Decode(*ids, /*skip_special=*/true)) << pieces;
}

void Check(const std::string& json, std::string_view text) {
  const auto file = ParseTokenizerFile(json);
  if (!file.ok()) {
    CHECK(absl::IsInvalidArgument(file.status()) || absl::IsUnimplemented(file.status()))
        << file.status();
    CHECK(!file.status().message().empty());
    return;
  }
  CheckFile(*file);
  if (file->token_bytes.size() > kMaxId) return;

  const std::string word = [text] {
    std::string letters;
    for (const char c : text.substr(0, 64)) letters += static_cast<char>('a' + (c & 7));
    return letters;
  }();
  BytePairEncoder::Workspace workspace;
  std::vector<TokenId> ids;
  BytePairEncoder(file->byte_tokens, file->merges).Encode(word, workspace, ids);
  CHECK(ids == NaiveEncode(*file, word)) << word;

  static const testing::TempDir folder;
  folder.Write("tokenizer.json", json);
  const auto tokenizer = Tokenizer::Load(folder.path());
  CHECK(tokenizer.ok()) << tokenizer.status();
  for (const SpecialTokens mode : {SpecialTokens::kAsText, SpecialTokens::kParse}) {
    CheckText(**tokenizer, *file, text, mode);
  }
}

}  // namespace
}  // namespace longhaul::text

// First byte F: the rest is the file. Otherwise: a line, which is the text to encode, and a JSON
// merge patch for a small file that is correct.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using longhaul::text::Check;
  longhaul::fuzz::FuzzInput input(data, size);
  if (input.Byte() == 'F') {
    Check(std::string(input.Rest()), "Hello, wörld!");
    return 0;
  }
  const std::string_view text = input.Until('\n').substr(0, longhaul::text::kMaxText);
  const auto patch =
      nlohmann::json::parse(input.Rest(), /*cb=*/nullptr, /*allow_exceptions=*/false);
  if (patch.is_discarded()) return -1;  // adds nothing to what F inputs say
  nlohmann::json file = longhaul::fuzz::ByteTokenizerJson();
  file.merge_patch(patch);
  Check(file.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace), text);
  return 0;
}
