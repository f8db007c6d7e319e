#include "common/text/tokenizer_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <string>

#include "common/logging.h"
#include "tests/testing/paths.h"
#include "tests/testing/status_matchers.h"

namespace longhaul::text {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::StatusIs;

const std::string& DemoFile() {
  static const std::string text = [] {
    std::ifstream file(testing::SourcePath("models/demo/tokenizer.json"));
    CHECK(file.good());
    return std::string(std::istreambuf_iterator<char>(file), {});
  }();
  return text;
}

// The demo's file with the first occurrence of `from` replaced.
std::string Changed(const std::string& from, const std::string& to) {
  std::string text = DemoFile();
  const size_t at = text.find(from);
  CHECK(at != std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

TEST(TokenizerFile, ReadsTheDemo) {
  ASSERT_OK_AND_ASSIGN(const TokenizerFile file, ParseTokenizerFile(DemoFile()));
  EXPECT_EQ(file.token_bytes.size(), 2043u);
  EXPECT_EQ(file.merges.size(), 1784u);
  ASSERT_EQ(file.added_tokens.size(), 3u);
  EXPECT_EQ(file.added_tokens[2].content, "<|im_end|>");
  EXPECT_EQ(file.added_tokens[2].id, 2042);
  EXPECT_TRUE(file.added_tokens[2].special);
  for (size_t byte = 0; byte < 256; ++byte) {
    const auto id = static_cast<size_t>(file.byte_tokens[byte]);
    EXPECT_EQ(file.token_bytes[id], std::string(1, static_cast<char>(byte)));
  }
  for (const BytePairEncoder::Merge& merge : file.merges) {
    const auto bytes = [&file](TokenId id) { return file.token_bytes[static_cast<size_t>(id)]; };
    EXPECT_EQ(bytes(merge.left) + bytes(merge.right), bytes(merge.result));
  }
}

TEST(TokenizerFile, ReadsMergesInBothSpellings) {
  // Only the first merge is a string now; files hold one kind or the other.
  std::string text = DemoFile();
  const size_t begin = text.find('[', text.find("\"merges\": [") + 11);
  const size_t end = text.find(']', begin);
  text.replace(begin, end + 1 - begin, "\"\u0120 t\"");
  ASSERT_OK_AND_ASSIGN(const TokenizerFile pairs, ParseTokenizerFile(DemoFile()));
  ASSERT_OK_AND_ASSIGN(const TokenizerFile strings, ParseTokenizerFile(text));
  EXPECT_EQ(strings.merges.size(), pairs.merges.size());
  EXPECT_EQ(strings.merges[0].left, pairs.merges[0].left);
  EXPECT_EQ(strings.merges[0].right, pairs.merges[0].right);
  EXPECT_EQ(strings.merges[0].result, pairs.merges[0].result);
}

TEST(TokenizerFile, NamesTheSettingThatIsNotImplemented) {
  struct Case {
    const char* from;
    const char* to;
    const char* named;
    const char* value;
  };
  const Case cases[] = {
      {R"("type": "NFC")", R"("type": "NFKC")", "normalizer.type", "NFKC"},
      {R"("type": "BPE")", R"("type": "Unigram")", "model.type", "Unigram"},
      {R"("dropout": null)", R"("dropout": 0.1)", "model.dropout", "0.1"},
      {R"("unk_token": null)", R"("unk_token": "<unk>")", "model.unk_token", "<unk>"},
      {R"("byte_fallback": false)", R"("byte_fallback": true)", "model.byte_fallback", "true"},
      {R"("ignore_merges": false)", R"("ignore_merges": true)", "model.ignore_merges", "true"},
      {R"("type": "Split")", R"("type": "Whitespace")", "pretokenizers[0].type", "Whitespace"},
      {R"("behavior": "Isolated")", R"("behavior": "Removed")", "behavior", "Removed"},
      {R"(\\p{N}|)", R"(\\p{N}{1,3}|)", "pattern.Regex", "{1,3}"},
      {R"("add_prefix_space": false)", R"("add_prefix_space": true)", "add_prefix_space", "true"},
      {R"("post_processor": null)", R"("post_processor": {"type": "TemplateProcessing"})",
       "post_processor.type", "TemplateProcessing"},
      {R"("truncation": null)", R"("truncation": {"max_length": 8})", "truncation", "max_length"},
      {R"("lstrip": false)", R"("lstrip": true)", "added_tokens[0].lstrip", "true"},
      {R"("normalized": false)", R"("normalized": true)", "added_tokens[0].normalized", "true"},
  };
  for (const Case& c : cases) {
    EXPECT_THAT(
        ParseTokenizerFile(Changed(c.from, c.to)),
        StatusIs(absl::StatusCode::kUnimplemented, AllOf(HasSubstr(c.named), HasSubstr(c.value))))
        << c.to;
  }
}

TEST(TokenizerFile, RefusesWhatContradictsItself) {
  struct Case {
    const char* name;
    std::string text;
    const char* message;
  };
  const Case cases[] = {
      {"no JSON", "{", "not valid JSON"},
      {"id twice", Changed("\"\\\"\": 1", "\"\\\"\": 0"), "which another token has too"},
      {"negative id", Changed("\"!\": 0", "\"!\": -1"), "id -1"},
      {"huge id", Changed("\"!\": 0", "\"!\": 99999999999"), "allowed: 0 to"},
      {"no byte", Changed("\"!\": 0", "\"!!!!!!\": 0"), "no token for the byte 33"},
      {"not byte-level", Changed("\"!\": 0", "\"! !\": 0"), "byte-level letters"},
      {"added token's id taken", Changed("\"id\": 2041", "\"id\": 7"), "which another token has"},
      {"empty added token", Changed("<|im_start|>", ""), "added_tokens[1].content"},
  };
  for (const Case& c : cases) {
    EXPECT_THAT(ParseTokenizerFile(c.text),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(c.message)))
        << c.name;
  }
}

TEST(TokenizerFile, SurvivesTruncationAnywhere) {
  const std::string& text = DemoFile();
  for (size_t length = 0; length < text.size() - 2; length += 1 + text.size() / 50) {
    EXPECT_THAT(ParseTokenizerFile(text.substr(0, length)),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("JSON")));
  }
}

TEST(TokenizerFile, RefusesWellFormedJsonOfAnotherShape) {
  for (const char* text :
       {"null", "[]", "{}", "3", R"({"model": []})", R"({"normalizer": "NFC"})"}) {
    EXPECT_THAT(ParseTokenizerFile(text),
                StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("normalizer.type")))
        << text;
  }
}

}  // namespace
}  // namespace longhaul::text
