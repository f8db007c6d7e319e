#include "common/text/python_json.h"

#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace longhaul::text {
namespace {

using Json = nlohmann::json;

std::string Quoted(std::string_view text) {
  constexpr std::string_view kHexDigits = "0123456789abcdef";
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<uint8_t>(c);
    if (c == '"' || c == '\\') {
      out.push_back('\\');
      out.push_back(c);
    } else if (byte >= 0x20) {
      out.push_back(c);
    } else if (constexpr std::string_view kNamed = "\b\t\n\f\r", kLetters = "btnfr";
               kNamed.find(c) != std::string_view::npos) {
      out.push_back('\\');
      out.push_back(kLetters[kNamed.find(c)]);
    } else {
      out.append("\\u00");
      out.push_back(kHexDigits[byte >> 4]);
      out.push_back(kHexDigits[byte & 0xF]);
    }
  }
  out.push_back('"');
  return out;
}

// Python's repr of a finite float: the shortest digits that read back as it, plain while the
// exponent is in [-4, 16).
std::string FloatRepr(double value) {
  std::array<char, 32> buffer{};
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value,
                                 std::chars_format::scientific)
                       .ptr;
  const std::string_view scientific(buffer.data(), static_cast<size_t>(end - buffer.data()));
  const size_t e = scientific.find('e');
  const int exponent = std::atoi(std::string(scientific.substr(e + 1)).c_str());
  if (exponent < -4 || exponent >= 16) return std::string(scientific);

  const bool negative = scientific[0] == '-';
  std::string digits;
  for (const char c : scientific.substr(negative ? 1 : 0, e - (negative ? 1 : 0))) {
    if (c != '.') digits.push_back(c);
  }
  if (exponent < 0) {
    digits.insert(0, static_cast<size_t>(-exponent), '0');
    digits.insert(1, ".");
  } else {
    const size_t point = static_cast<size_t>(exponent) + 1;
    if (digits.size() < point + 1) digits.append(point + 1 - digits.size(), '0');
    digits.insert(point, ".");
  }
  return (negative ? "-" : "") + digits;
}

// Receives the parser's events and writes each value as soon as it is whole.
class PythonWriter : public nlohmann::json_sax<Json> {
 public:
  explicit PythonWriter(std::string_view json) : json_(json) {}

  bool null() override { return Value("null"); }
  bool boolean(bool value) override { return Value(value ? "true" : "false"); }
  bool number_integer(int64_t value) override { return Value(std::to_string(value)); }
  bool number_unsigned(uint64_t value) override { return Value(std::to_string(value)); }
  bool number_float(double value, const std::string& spelling) override {
    // Whole numbers beyond 64 bits come here too; Python keeps all of their digits.
    if (spelling.find_first_of(".eE") == std::string::npos) return Value(spelling);
    return Value(FloatRepr(value));
  }
  bool string(std::string& value) override { return Value(Quoted(value)); }
  bool binary(Json::binary_t&) override { return Fail("binary value"); }

  bool start_object(size_t) override { return Open(/*is_object=*/true); }
  bool start_array(size_t) override { return Open(/*is_object=*/false); }
  bool key(std::string& name) override {
    Container& object = open_.back();
    const auto [it, is_new] = object.index.try_emplace(name, object.items.size());
    object.current = it->second;
    if (is_new) object.items.push_back(Quoted(name) + ": ");
    object.items[object.current].resize(Quoted(name).size() + 2);  // drops an earlier value
    return true;
  }
  bool end_object() override { return Close('{', '}'); }
  bool end_array() override { return Close('[', ']'); }
  // In our words: the library's speak of its own classes and repeat the text, be it UTF-8 or not.
  bool parse_error(size_t position, const std::string&, const Json::exception& error) override {
    constexpr int kNumberOutOfRange = 406;
    const std::string at = absl::StrCat("at byte ", position, ": ");
    if (error.id == kNumberOutOfRange) return Fail(at + "a number is beyond the range of floats");
    if (position > json_.size()) return Fail(at + "it ends too early");
    if (std::string_view(error.what()).find("invalid string") != std::string_view::npos) {
      return Fail(
          at +
          "a string has a control character, an unknown escape, half of a surrogate pair or "
          "a byte that is not UTF-8");
    }
    const char c = position == 0 ? '\0' : json_[position - 1];
    if (c > ' ' && c < '\x7F')
      return Fail(absl::StrCat(at, "unexpected '", std::string(1, c), "'"));
    return Fail(absl::StrCat(at, "unexpected byte ", static_cast<uint8_t>(c)));
  }

  absl::StatusOr<std::string> Result() && {
    if (!error_.ok()) return error_;
    return std::move(result_);
  }

 private:
  struct Container {
    bool is_object;
    std::vector<std::string> items;                 // written; those of an object with their keys
    std::unordered_map<std::string, size_t> index;  // of an object's keys into items
    size_t current = 0;                             // the item whose value comes next
  };

  bool Fail(const std::string& why) {
    error_ = absl::InvalidArgumentError(absl::StrCat("invalid JSON ", why));
    return false;
  }

  bool Value(std::string text) {
    if (open_.empty()) {
      result_ = std::move(text);
    } else if (Container& container = open_.back(); container.is_object) {
      container.items[container.current].append(text);
    } else {
      container.items.push_back(std::move(text));
    }
    return true;
  }

  bool Open(bool is_object) {
    if (open_.size() == kMaxJsonDepth) {
      error_ = absl::InvalidArgumentError(
          absl::StrCat("JSON has more than ", kMaxJsonDepth, " nested levels, the limit"));
      return false;
    }
    open_.push_back({.is_object = is_object, .items = {}, .index = {}});
    return true;
  }

  bool Close(char begin, char end) {
    std::string text(1, begin);
    for (const std::string& item : open_.back().items) {
      if (text.size() > 1) text.append(", ");
      text.append(item);
    }
    text.push_back(end);
    open_.pop_back();
    return Value(std::move(text));
  }

  const std::string_view json_;  // the text being parsed
  std::vector<Container> open_;
  std::string result_;
  absl::Status error_;
};

}  // namespace

absl::StatusOr<std::string> ToPythonJson(const std::string& json) {
  PythonWriter writer(json);
  Json::sax_parse(json, &writer);
  return std::move(writer).Result();
}

}  // namespace longhaul::text
