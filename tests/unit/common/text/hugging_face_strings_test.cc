// Compares ids with Hugging Face's over tens of thousands of strings and every code point, by
// digest (tests/data/make_tokenizer_strings.py).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "common/text/tokenizer.h"
#include "common/text/utf8.h"
#include "tests/testing/paths.h"
#include "tests/testing/status_matchers.h"
#include "tests/unit/common/text/published_tokenizer.h"

namespace longhaul::text {
namespace {

struct String {
  std::string kind;
  std::string text;
};

std::vector<std::string> Lines(const std::string& file_name) {
  std::ifstream file(testing::SourcePath("tests/data/" + file_name));
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  return lines;
}

const std::vector<String>& StoredStrings() {
  static const auto* const strings = [] {
    auto* const result = new std::vector<String>();
    std::string kind;
    for (const std::string& line : Lines("tokenizer_strings.txt")) {
      if (line.starts_with("# ")) {
        kind = line.substr(2);
      } else {
        result->push_back({.kind = kind, .text = nlohmann::json::parse(line)});
      }
    }
    return result;
  }();
  return *strings;
}

// What the script's sweeps() makes: every code point of the planes that have any characters, behind
// a letter, behind a space, twice, before an empty line and between marks; and every Hangul
// syllable as jamo.
std::vector<String> Sweeps() {
  constexpr char32_t kBlock = 128;
  std::vector<String> sweeps;
  for (char32_t first = 0; first < 0x110000; first += kBlock) {
    const char32_t plane = first >> 16;
    if (plane >= 4 && plane != 14 && first / kBlock % 64 != 0) continue;
    std::string text;
    for (char32_t c = first; c < first + kBlock; ++c) {
      if (c >= 0xD800 && c < 0xE000) continue;
      std::string character;
      AppendCodePoint(c, character);
      text.append("x").append(character).append(" ");
      text.append(character).append(character).append("\n \n");
      text.append("\u0301").append(character).append("\u0323");
    }
    sweeps.push_back({.kind = absl::StrFormat("code points from U+%04X", uint32_t{first}),
                      .text = std::move(text)});
  }
  constexpr char32_t kHangulBlock = 84;
  for (char32_t first = 0; first < 11172; first += kHangulBlock) {
    std::string text;
    for (char32_t i = first; i < first + kHangulBlock; ++i) {
      AppendCodePoint(0x1100 + i / (21 * 28), text);
      AppendCodePoint(0x1161 + i / 28 % 21, text);
      if (i % 28 != 0) AppendCodePoint(0x11A7 + i % 28, text);
    }
    sweeps.push_back(
        {.kind = absl::StrFormat("jamo of the syllables from U+%04X", 0xAC00 + uint32_t{first}),
         .text = std::move(text)});
  }
  return sweeps;
}

std::string DigestOf(const std::vector<TokenId>& ids) {
  uint32_t digest = 2166136261u;
  for (const TokenId id : ids) digest = (digest ^ static_cast<uint32_t>(id)) * 16777619u;
  return absl::StrFormat("%08x", digest);
}

struct Model {
  const char* name;
  PublishedTokenizer tokenizer;
};

std::ostream& operator<<(std::ostream& out, const Model& model) { return out << model.name; }

class HuggingFaceStrings : public ::testing::TestWithParam<Model> {
 protected:
  void SetUp() override {
    const Model& model = GetParam();
    const std::string directory = model.tokenizer.Find();
    if (directory.empty()) {
      GTEST_SKIP() << "skipped: LONGHAUL_SHARED has no " << model.tokenizer.directory;
    }
    tokenizer_ = &LoadedTokenizer(directory);
    digests_ = Lines("tokenizer_strings_" + std::string(model.name) + ".txt");
  }

  std::string Digest(const std::string& text, SpecialTokens mode) {
    const auto ids = tokenizer_->Encode(text, mode);
    EXPECT_OK(ids);
    return DigestOf(ids.value_or(std::vector<TokenId>{}));
  }

  const Tokenizer* tokenizer_ = nullptr;
  std::vector<std::string> digests_;  // of the stored strings, then of the sweeps
};

// How to see what differs: the script's --show.
TEST_P(HuggingFaceStrings, GiveTheSameIds) {
  const std::vector<String>& strings = StoredStrings();
  ASSERT_GE(strings.size(), 20000u);
  ASSERT_GE(digests_.size(), strings.size());
  std::map<std::string, int> num_same;
  for (size_t i = 0; i < strings.size(); ++i) {
    const std::string parsed = Digest(strings[i].text, SpecialTokens::kParse);
    const std::string as_text = Digest(strings[i].text, SpecialTokens::kAsText);
    const std::string both = parsed == as_text ? parsed : parsed + " " + as_text;
    EXPECT_EQ(both, digests_[i]) << strings[i].kind << ": " << nlohmann::json(strings[i].text);
    if (both == digests_[i]) ++num_same[strings[i].kind];
  }
  EXPECT_EQ(num_same.size(), 17u);
  for (const auto& [kind, count] : num_same) EXPECT_GE(count, 700) << kind;
}

TEST_P(HuggingFaceStrings, EveryCodePointGivesTheSameIds) {
  const std::vector<String> sweeps = Sweeps();
  const size_t num_stored = StoredStrings().size();
  ASSERT_EQ(digests_.size(), num_stored + sweeps.size());
  for (size_t i = 0; i < sweeps.size(); ++i) {
    EXPECT_EQ(Digest(sweeps[i].text, SpecialTokens::kAsText), digests_[num_stored + i])
        << sweeps[i].kind;
  }
}

// One byte more or less, and the digest is another: the comparison above can fail.
TEST_P(HuggingFaceStrings, DigestsTellTextsApart) {
  const std::vector<String>& strings = StoredStrings();
  size_t num_same = 0;
  for (size_t i = 0; i < strings.size(); i += 10) {
    num_same += Digest(strings[i].text + "0", SpecialTokens::kParse) == digests_[i].substr(0, 8);
  }
  EXPECT_EQ(num_same, 0u);
}

INSTANTIATE_TEST_SUITE_P(, HuggingFaceStrings,
                         ::testing::Values(Model{"demo", {false, "models/demo"}},
                                           Model{"qwen", {true, "models/qwen2.5-tokenizer"}}),
                         [](const ::testing::TestParamInfo<Model>& model) {
                           return model.param.name;
                         });

}  // namespace
}  // namespace longhaul::text
