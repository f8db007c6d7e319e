#include "tests/testing/pass_key.h"

#include <array>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "common/logging.h"

namespace longhaul::testing {
namespace {

constexpr char kFiller[] =
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. ";
// The filler's tokens: every word and every full stop is one.
constexpr std::array<const char*, 24> kFillerTokens = {
    "The", "grass",  "is", "green", ".",  "The", "sky", "is",    "blue", ".",    "The",   "sun",
    "is",  "yellow", ".",  "Here",  "we", "go",  ".",   "There", "and",  "back", "again", "."};
// Tokens of everything that is not filler: template, intro, needle, question.
constexpr int64_t kFixedTokens = 110;

std::string Unit(int64_t index) {
  return kFillerTokens[static_cast<size_t>(index) % kFillerTokens.size()];
}

}  // namespace

PassKeyPrompt MakePassKeyPrompt(int64_t tokens, double depth, const std::string& key) {
  constexpr int64_t kRepeat = kFillerTokens.size();
  CHECK(tokens >= kFixedTokens + kRepeat && depth >= 0 && depth <= 1)
      << "tokens=" << tokens << " depth=" << depth;
  const int64_t wanted = tokens - kFixedTokens;
  const bool ends_early = Unit(wanted - 1) == ".";
  const int64_t units = ends_early ? wanted - 1 : wanted;
  const int64_t repeats = (units - 1) / kRepeat;
  const int64_t before = std::lrint(static_cast<double>(repeats) * depth);
  std::string text =
      "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. "
      "I will quiz you about the important information there.\n\n";
  for (int64_t i = 0; i < before; ++i) text += kFiller;
  absl::StrAppend(&text, "The pass key is ", key, ". Remember it. ", key, " is the pass key.\n");
  for (int64_t i = 0; i < units - before * kRepeat; ++i) {
    const std::string unit = Unit(i);
    absl::StrAppend(&text, i == 0 || unit == "." ? "" : " ", unit);
  }
  // A full stop would form one token with the question's line break; the word before it and a space
  // count the same.
  absl::StrAppend(&text, ends_early ? " " : "", "\nWhat is the pass key?");
  return {text, absl::StrCat("The pass key is ", key, ".")};
}

}  // namespace longhaul::testing
