#include "router/rest/json_fields.h"

#include <algorithm>
#include <cmath>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/text/utf8.h"
#include "router/error_detail.h"

namespace longhaul::router::rest {
namespace {

using simdjson::dom::element;
using simdjson::dom::element_type;

std::string TypeName(element value) {
  switch (value.type()) {
    case element_type::ARRAY:
      return "an array";
    case element_type::OBJECT:
      return "an object";
    case element_type::STRING: {
      // A prompt in the wrong place is not repeated.
      constexpr size_t kMaxQuotedBytes = 64;
      const std::string_view text = value.get_string().value_unsafe();
      if (text.size() > kMaxQuotedBytes) return absl::StrCat("a string of ", text.size(), " bytes");
      return absl::StrCat("the string \"", std::string(text), "\"");
    }
    case element_type::BOOL:
      return value.get_bool().value_unsafe() ? "true" : "false";
    case element_type::NULL_VALUE:
      return "null";
    default: {  // numbers: the value itself says most
      std::ostringstream text;
      text << simdjson::minify(value);
      return text.str();
    }
  }
}

// The parser refuses everything that is not UTF-8, but lets an escaped low surrogate through when
// it stands alone.
absl::Status LoneSurrogate(const std::string& path) {
  return InvalidField(path,
                      absl::StrCat(path, " has a surrogate without its partner (\\ud800-\\udfff)"));
}

// Reads a field with `read` if it is there.
template <typename Read>
auto Optional(const JsonFields& fields, std::string_view name, Read read) -> absl::StatusOr<
    std::optional<typename decltype(read(std::declval<element>(), std::string()))::value_type>> {
  using Value = typename decltype(read(std::declval<element>(), std::string()))::value_type;
  const std::optional<element> value = fields.Find(name);
  if (!value.has_value()) return std::optional<Value>();
  ASSIGN_OR_RETURN(Value result, read(*value, fields.PathOf(name)));
  return std::optional<Value>(std::move(result));
}

}  // namespace

absl::Status WrongType(element value, const std::string& path, std::string_view expected) {
  return InvalidField(
      path, absl::StrCat(path, " must be ", std::string(expected), ", got ", TypeName(value)));
}

absl::StatusOr<std::string> StringAt(element value, const std::string& path) {
  std::string_view text;
  if (value.get_string().get(text) != simdjson::SUCCESS) {
    return WrongType(value, path, "a string");
  }
  if (text::FindInvalidUtf8(text) != std::string_view::npos) return LoneSurrogate(path);
  return std::string(text);
}

absl::StatusOr<double> NumberAt(element value, const std::string& path) {
  if (!value.is_number()) return WrongType(value, path, "a number");
  return value.get_double().value_unsafe();
}

absl::StatusOr<int64_t> IntegerAt(element value, const std::string& path, int64_t min,
                                  int64_t max) {
  if (!value.is_number()) return WrongType(value, path, "an integer");
  const double number = value.get_double().value_unsafe();
  if (number != std::floor(number)) return WrongType(value, path, "an integer");
  int64_t integer = 0;
  bool fits = value.get_int64().get(integer) == simdjson::SUCCESS;
  if (!fits && value.is_double() && std::abs(number) < 9e18) {
    integer = static_cast<int64_t>(number);
    fits = true;
  }
  if (!fits || integer < min || integer > max) {
    return InvalidField(path,
                        absl::StrCat(path, " is ", TypeName(value), ", limit ", min, " to ", max));
  }
  return integer;
}

absl::StatusOr<std::string> JsonTextAt(element value, const std::string& path) {
  std::ostringstream stream;
  stream << simdjson::minify(value);
  std::string json = std::move(stream).str();
  if (text::FindInvalidUtf8(json) == std::string_view::npos) return json;
  const JsonFault fault = FindJsonFault(json).value_or(JsonFault{});
  const bool is_field = !fault.path.empty() && fault.path.front() != '[';
  return LoneSurrogate(absl::StrCat(path, is_field ? "." : "", fault.path));
}

absl::StatusOr<JsonFields> ObjectAt(element value, const std::string& path) {
  simdjson::dom::object object;
  if (value.get_object().get(object) != simdjson::SUCCESS) {
    return WrongType(value, path, "an object");
  }
  return JsonFields(object, path);
}

std::string JsonFields::PathOf(std::string_view name) const {
  return path_.empty() ? std::string(name) : path_ + "." + std::string(name);
}

std::optional<element> JsonFields::Find(std::string_view name) const {
  std::optional<element> found;
  for (const auto [key, value] : object_) {
    if (key == name) found = value;
  }
  if (found.has_value() && found->is_null()) return std::nullopt;
  return found;
}

absl::StatusOr<std::optional<std::string>> JsonFields::String(std::string_view name) const {
  return Optional(*this, name, StringAt);
}

absl::StatusOr<std::optional<double>> JsonFields::Number(std::string_view name) const {
  return Optional(*this, name, NumberAt);
}

absl::StatusOr<std::optional<bool>> JsonFields::Bool(std::string_view name) const {
  return Optional(*this, name, [](element value, const std::string& path) -> absl::StatusOr<bool> {
    if (!value.is_bool()) return WrongType(value, path, "true or false");
    return value.get_bool().value_unsafe();
  });
}

absl::StatusOr<std::optional<int64_t>> JsonFields::Integer(std::string_view name, int64_t min,
                                                           int64_t max) const {
  return Optional(*this, name, [min, max](element value, const std::string& path) {
    return IntegerAt(value, path, min, max);
  });
}

absl::StatusOr<std::optional<JsonFields>> JsonFields::Object(std::string_view name) const {
  return Optional(*this, name, ObjectAt);
}

absl::StatusOr<std::optional<simdjson::dom::array>> JsonFields::Array(std::string_view name,
                                                                      size_t max_items) const {
  using simdjson::dom::array;
  return Optional(
      *this, name, [max_items](element value, const std::string& path) -> absl::StatusOr<array> {
        array items;
        if (value.get_array().get(items) != simdjson::SUCCESS) {
          return WrongType(value, path, "an array");
        }
        // size() saturates at 2^24 - 1, above every limit that is asked for here.
        if (items.size() > max_items) {
          return InvalidField(
              path, absl::StrCat(path, " has ", items.size(), " items, limit ", max_items));
        }
        return items;
      });
}

absl::StatusOr<JsonDocument> JsonDocument::Parse(std::string text) {
  auto parser = std::make_unique<simdjson::dom::parser>();
  simdjson::error_code error = parser->allocate(std::max<size_t>(text.size(), 64), kMaxDepth);
  element root;
  if (error == simdjson::SUCCESS) {
    text.reserve(text.size() + simdjson::SIMDJSON_PADDING);
    error = parser->parse(text).get(root);
  }
  switch (error) {
    case simdjson::SUCCESS:
      break;
    case simdjson::MEMALLOC:
      return absl::ResourceExhaustedError(
          absl::StrCat("no memory to read a body of ", text.size(), " bytes"));
    case simdjson::EMPTY:
      return absl::InvalidArgumentError("the body is empty, expected a JSON object");
    case simdjson::DEPTH_ERROR:
      return absl::InvalidArgumentError(
          absl::StrCat("the body is JSON nested deeper than the limit of ", kMaxDepth, " levels"));
    default: {
      const std::optional<JsonFault> fault = FindJsonFault(text);
      if (!fault.has_value()) {
        return absl::InvalidArgumentError(
            absl::StrCat("the body is not valid JSON: ", simdjson::error_message(error)));
      }
      const std::string name = fault->path.empty() ? "the body" : fault->path;
      return InvalidField(fault->path, absl::StrCat(name, " ", fault->reason));
    }
  }
  simdjson::dom::object object;
  if (root.get_object().get(object) != simdjson::SUCCESS) {
    return absl::InvalidArgumentError(
        absl::StrCat("the body must be a JSON object, got ", TypeName(root)));
  }
  if (object.size() > kMaxTopFields) {
    return absl::InvalidArgumentError(
        absl::StrCat("the body has ", object.size(), " fields, limit ", kMaxTopFields));
  }
  return JsonDocument(std::move(parser), JsonFields(object, ""));
}

}  // namespace longhaul::router::rest
