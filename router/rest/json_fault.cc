#include "router/rest/json_fault.h"

#include <charconv>
#include <cstdint>
#include <vector>

#include "common/text/utf8.h"

namespace longhaul::router::rest {
namespace {

constexpr size_t kMaxKeyBytes = 64;

// Follows the structure of a JSON text as far as a path needs it. Lenient: a text that is no JSON
// gives some path, never an error.
class PathWalker {
 public:
  explicit PathWalker(std::string_view json) : json_(json), invalid_(text::FindInvalidUtf8(json)) {}

  std::optional<JsonFault> Run() {
    while (offset_ < json_.size()) {
      if (invalid_ <= offset_) return Fault("has invalid UTF-8");
      if (std::optional<JsonFault> fault = Step()) return fault;
    }
    return std::nullopt;
  }

 private:
  struct Level {
    bool is_object;
    bool expects_key;
    int64_t index = 0;
    std::string key = {};
  };

  JsonFault Fault(std::string reason) const {
    std::string path;
    for (const Level& level : levels_) {
      if (level.is_object) {
        if (!path.empty() && !level.key.empty()) path += '.';
        path += level.key;
      } else {
        path += '[' + std::to_string(level.index) + ']';
      }
    }
    return {std::move(path), std::move(reason)};
  }

  // Of the document as a whole: a path of that many levels is not for reading.
  static JsonFault TooDeep() {
    return {"",
            "is JSON nested deeper than the limit of " + std::to_string(kMaxJsonDepth) + " levels"};
  }

  std::optional<JsonFault> Step() {
    const char c = json_[offset_];
    switch (c) {
      case '{':
      case '[':
        if (levels_.size() >= kMaxJsonDepth) return TooDeep();
        levels_.push_back({.is_object = c == '{', .expects_key = c == '{'});
        break;
      case '}':
      case ']':
        if (!levels_.empty()) levels_.pop_back();
        break;
      case ',':
        if (!levels_.empty()) {
          levels_.back().index++;
          levels_.back().key.clear();
          levels_.back().expects_key = levels_.back().is_object;
        }
        break;
      case ':':
        if (!levels_.empty()) levels_.back().expects_key = false;
        break;
      case '"':
        return String();
      default:
        // What Python's encoder writes for a float that is no number.
        for (const std::string_view word : {"NaN", "Infinity", "-Infinity"}) {
          if (json_.substr(offset_).starts_with(word)) {
            return Fault("is " + std::string(word) + ", which JSON does not know");
          }
        }
        if (c == '-' || (c >= '0' && c <= '9')) return Number();
    }
    offset_++;
    return std::nullopt;
  }

  // The value of the four digits after \u at `offset`; nullopt if they are not there.
  std::optional<uint32_t> EscapedUnit(size_t offset) const {
    if (json_.substr(offset, 2) != "\\u" || offset + 6 > json_.size()) return std::nullopt;
    uint32_t unit = 0;
    const char* begin = json_.data() + offset + 2;
    const auto [end, error] = std::from_chars(begin, begin + 4, unit, 16);
    if (error != std::errc() || end != begin + 4) return std::nullopt;
    return unit;
  }

  std::optional<JsonFault> String() {
    const size_t begin = ++offset_;
    bool lone_surrogate = false;
    while (offset_ < json_.size() && json_[offset_] != '"') {
      if (json_[offset_] != '\\') {
        offset_++;
        continue;
      }
      const std::optional<uint32_t> unit = EscapedUnit(offset_);
      if (!unit.has_value()) {
        offset_ += 2;
        continue;
      }
      offset_ += 6;
      if (*unit < 0xD800 || *unit > 0xDFFF) continue;
      const std::optional<uint32_t> next = EscapedUnit(offset_);
      const bool paired = *unit < 0xDC00 && next.has_value() && *next >= 0xDC00 && *next <= 0xDFFF;
      if (paired) offset_ += 6;
      lone_surrogate |= !paired;
    }
    const size_t end = std::min(offset_, json_.size());
    const bool is_key = !levels_.empty() && levels_.back().expects_key;
    const bool bad_utf8 = invalid_ < end;
    if (is_key && !bad_utf8 && !lone_surrogate) {
      levels_.back().key = json_.substr(begin, std::min(end - begin, kMaxKeyBytes));
    }
    const std::string in_key = is_key ? "has a key with " : "has ";
    if (bad_utf8) return Fault(in_key + "invalid UTF-8");
    if (lone_surrogate) return Fault(in_key + "a surrogate without its partner (\\ud800-\\udfff)");
    offset_ = end + 1;
    return std::nullopt;
  }

  std::optional<JsonFault> Number() {
    const size_t end = std::min(json_.find_first_not_of("0123456789+-.eE", offset_), json_.size());
    const std::string_view number = json_.substr(offset_, end - offset_);
    offset_ = end;
    std::errc error;
    if (number.find_first_of(".eE") != number.npos) {
      double value;
      error = std::from_chars(number.data(), number.data() + number.size(), value).ec;
    } else if (number.front() == '-') {
      int64_t value;
      error = std::from_chars(number.data(), number.data() + number.size(), value).ec;
    } else {
      uint64_t value;
      error = std::from_chars(number.data(), number.data() + number.size(), value).ec;
    }
    if (error != std::errc::result_out_of_range) return std::nullopt;
    return Fault("is " + std::string(number.substr(0, kMaxKeyBytes)) +
                 ", beyond the range of 64-bit numbers");
  }

  const std::string_view json_;
  const size_t invalid_;  // offset of the first byte that is no UTF-8
  size_t offset_ = 0;
  std::vector<Level> levels_;
};

}  // namespace

std::optional<JsonFault> FindJsonFault(std::string_view json) { return PathWalker(json).Run(); }

}  // namespace longhaul::router::rest
