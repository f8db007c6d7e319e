#define PCRE2_CODE_UNIT_WIDTH 8
#include "common/text/pre_tokenizer.h"

#include <pcre2.h>

#include <array>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/logging.h"

namespace longhaul::text {
namespace {

// Letters and numbers that Unicode 15 to 16 added to what PCRE2 10.42 knows (14).
constexpr char kNewLetters[] =
    R"(\x{1c89}-\x{1c8a}\x{a7cb}-\x{a7cd}\x{a7da}-\x{a7dc}\x{105c0}-\x{105f3})"
    R"(\x{10d4a}-\x{10d65}\x{10d6f}-\x{10d85}\x{10ec2}-\x{10ec4}\x{1123f}-\x{11240})"
    R"(\x{11380}-\x{11389}\x{1138b}\x{1138e}\x{11390}-\x{113b5}\x{113b7}\x{113d1}\x{113d3})"
    R"(\x{11bc0}-\x{11be0}\x{11f02}\x{11f04}-\x{11f10}\x{11f12}-\x{11f33}\x{1342f})"
    R"(\x{13441}-\x{13446}\x{13460}-\x{143fa}\x{16100}-\x{1611d}\x{16d40}-\x{16d6c})"
    R"(\x{18cff}\x{1b132}\x{1b155}\x{1df25}-\x{1df2a}\x{1e030}-\x{1e06d}\x{1e4d0}-\x{1e4eb})"
    R"(\x{1e5d0}-\x{1e5ed}\x{1e5f0}\x{2b739}\x{2ebf0}-\x{2ee5d}\x{31350}-\x{323af})";
constexpr char kNewNumbers[] =
    R"(\x{10d40}-\x{10d49}\x{116d0}-\x{116e3}\x{11bf0}-\x{11bf9}\x{11f50}-\x{11f59})"
    R"(\x{16130}-\x{16139}\x{16d70}-\x{16d79}\x{1ccf0}-\x{1ccf9}\x{1d2c0}-\x{1d2d3})"
    R"(\x{1e4f0}-\x{1e4f9}\x{1e5f1}-\x{1e5fa})";
// Unicode's White_Space; PCRE2's own \s holds U+180E besides, which lost the property in 6.3.
constexpr char kSpace[] =
    R"(\t-\r\x20\x85\xA0\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})";

// kQwenSplitPattern with the classes spelled out. Possessive (++, ?+) wherever giving back could
// not lead to a match anyway, so that runs of millions of letters are walked once.
std::string EnginePattern() {
  const std::string letter = absl::StrCat(R"(\p{L})", kNewLetters);
  const std::string number = absl::StrCat(R"(\p{N})", kNewNumbers);
  return absl::StrCat("(?i:'s|'t|'re|'ve|'m|'ll|'d)",                       //
                      R"(|[^\r\n)", letter, number, "]?+[", letter, "]++",  //
                      "|[", number, "]",                                    //
                      "| ?+[^", kSpace, letter, number, R"(]++[\r\n]*+)",   //
                      "|[", kSpace, R"(]*[\r\n]++)",                        //
                      "|[", kSpace, "]+(?![^", kSpace, "])",                //
                      "|[", kSpace, "]++");
}

enum class AsciiClass : uint8_t { kNotAscii, kLetter, kDigit, kNewline, kOtherSpace, kOther };

constexpr std::array<AsciiClass, 256> kAsciiClasses = [] {
  std::array<AsciiClass, 256> classes{};
  for (size_t c = 0; c < 128; ++c) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    const bool newline = c == '\r' || c == '\n';
    classes[c] = letter                                            ? AsciiClass::kLetter
                 : c >= '0' && c <= '9'                            ? AsciiClass::kDigit
                 : newline                                         ? AsciiClass::kNewline
                 : c == ' ' || c == '\t' || c == 0x0B || c == 0x0C ? AsciiClass::kOtherSpace
                                                                   : AsciiClass::kOther;
  }
  return classes;
}();

constexpr size_t kUndecided = 0;

// The end of the word at `begin` if it is one of the usual kinds of ASCII and what follows it is
// ASCII too; else kUndecided: contractions, runs of white space, everything beyond ASCII.
size_t AsciiWordEnd(std::string_view text, size_t begin) {
  // The end of the text is undecided too, like a character of an unknown class.
  const auto class_at = [text](size_t offset) {
    return offset < text.size() ? kAsciiClasses[static_cast<uint8_t>(text[offset])]
                                : AsciiClass::kNotAscii;
  };
  const auto skip = [&class_at](size_t offset, AsciiClass run) {
    while (class_at(offset) == run) ++offset;
    return offset;
  };
  const auto decided = [&class_at](size_t end) {
    return class_at(end) == AsciiClass::kNotAscii ? kUndecided : end;
  };
  const AsciiClass first = class_at(begin);
  if (first == AsciiClass::kLetter) return decided(skip(begin + 1, AsciiClass::kLetter));
  if (first == AsciiClass::kDigit) return begin + 1;
  if (first == AsciiClass::kNotAscii || first == AsciiClass::kNewline || text[begin] == '\'') {
    return kUndecided;
  }
  // Any other character takes the letters that follow it.
  const AsciiClass second = class_at(begin + 1);
  if (second == AsciiClass::kLetter) return decided(skip(begin + 2, AsciiClass::kLetter));
  // Punctuation takes a space before it, and the line ends behind it.
  if (first == AsciiClass::kOther || (text[begin] == ' ' && second == AsciiClass::kOther)) {
    const size_t end = skip(begin + 1, AsciiClass::kOther);
    if (class_at(end) == AsciiClass::kNotAscii) return kUndecided;
    return decided(skip(end, AsciiClass::kNewline));
  }
  return kUndecided;
}

std::string ErrorText(int code) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

struct MatchDataDeleter {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};
struct MatchContextDeleter {
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};

}  // namespace

void PreTokenizer::CodeDeleter::operator()(pcre2_real_code_8* code) const { pcre2_code_free(code); }

PreTokenizer::PreTokenizer(Code code) : code_(std::move(code)) {}

absl::StatusOr<PreTokenizer> PreTokenizer::Create() {
  const std::string pattern = EnginePattern();
  int error = 0;
  PCRE2_SIZE offset = 0;
  Code code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                          PCRE2_UTF | PCRE2_UCP, &error, &offset, nullptr));
  if (code == nullptr) {
    return absl::InternalError(absl::StrCat("PCRE2 refuses the pre-tokenizer's pattern at byte ",
                                            offset, ": ", ErrorText(error)));
  }
  // Where PCRE2 has no JIT, its interpreter gives the same matches, only slower.
  const int jit = pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);
  if (jit != 0 && jit != PCRE2_ERROR_JIT_BADOPTION) {
    return absl::InternalError(
        absl::StrCat("compiling the pre-tokenizer's pattern with PCRE2's JIT: ", ErrorText(jit)));
  }
  return PreTokenizer(std::move(code));
}

absl::Status PreTokenizer::Split(std::string_view text,
                                 absl::FunctionRef<void(std::string_view)> on_word) const {
  const std::unique_ptr<pcre2_match_data, MatchDataDeleter> data(
      pcre2_match_data_create_from_pattern(code_.get(), nullptr));
  const std::unique_ptr<pcre2_match_context, MatchContextDeleter> context(
      pcre2_match_context_create(nullptr));
  if (data == nullptr || context == nullptr) {
    return absl::ResourceExhaustedError("no memory for PCRE2's match data");
  }
  // The default of 10 million would end a match within a run of that many spaces.
  pcre2_set_match_limit(context.get(), UINT32_MAX);

  const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  for (size_t offset = 0; offset < text.size();) {
    if (const size_t end = AsciiWordEnd(text, offset); end != kUndecided) {
      on_word(text.substr(offset, end - offset));
      offset = end;
      continue;
    }
    // The text is known to be UTF-8; checking it again at each match would be quadratic.
    const int count = pcre2_match(code_.get(), subject, text.size(), offset, PCRE2_NO_UTF_CHECK,
                                  data.get(), context.get());
    if (count < 0) {
      return absl::ResourceExhaustedError(absl::StrCat("splitting ", text.size(),
                                                       " bytes of text failed at byte ", offset,
                                                       ": ", ErrorText(count)));
    }
    // Every code point is a letter, a number, white space or other: there are no gaps.
    const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(data.get());
    CHECK(bounds[0] == offset && bounds[1] > offset)
        << "offset=" << offset << " match=[" << bounds[0] << ", " << bounds[1] << ")";
    on_word(text.substr(offset, bounds[1] - offset));
    offset = bounds[1];
  }
  return absl::OkStatus();
}

}  // namespace longhaul::text
