#pragma once

#include <simdjson.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "router/rest/json_fault.h"

namespace longhaul::router::rest {

// A JSON object as typed fields whose errors name the field. Absent and null are the same. Of a
// name that is there twice the last counts, as for Python's and JavaScript's parsers.
//
// A view into a JsonDocument, which outlives it. Errors: kInvalidArgument with the field's full
// path (router/error_detail.h); the message has the value and the limit.
class JsonFields {
 public:
  JsonFields(simdjson::dom::object object, std::string path)
      : object_(object), path_(std::move(path)) {}

  // Full path of a field of this object: "stream_options.include_usage".
  std::string PathOf(std::string_view name) const;

  // nullopt if absent or null.
  std::optional<simdjson::dom::element> Find(std::string_view name) const;
  absl::StatusOr<std::optional<std::string>> String(std::string_view name) const;
  absl::StatusOr<std::optional<bool>> Bool(std::string_view name) const;
  absl::StatusOr<std::optional<double>> Number(std::string_view name) const;
  // Both ends belong to the range. 3.0 counts as 3.
  absl::StatusOr<std::optional<int64_t>> Integer(std::string_view name, int64_t min,
                                                 int64_t max) const;
  absl::StatusOr<std::optional<JsonFields>> Object(std::string_view name) const;
  // At most `max_items` long.
  absl::StatusOr<std::optional<simdjson::dom::array>> Array(std::string_view name,
                                                            size_t max_items) const;

  simdjson::dom::object object() const { return object_; }

 private:
  simdjson::dom::object object_;
  std::string path_;
};

// The same for a single value at `path`.
absl::StatusOr<std::string> StringAt(simdjson::dom::element value, const std::string& path);
absl::StatusOr<int64_t> IntegerAt(simdjson::dom::element value, const std::string& path,
                                  int64_t min, int64_t max);
absl::StatusOr<double> NumberAt(simdjson::dom::element value, const std::string& path);
// Its own text without spaces.
absl::StatusOr<std::string> JsonTextAt(simdjson::dom::element value, const std::string& path);
absl::StatusOr<JsonFields> ObjectAt(simdjson::dom::element value, const std::string& path);

// "field must be what, got a string".
absl::Status WrongType(simdjson::dom::element value, const std::string& path,
                       std::string_view expected);

// A whole request body. Owns what the views of it point into.
class JsonDocument {
 public:
  // Objects and arrays in each other; deeper texts are refused.
  static constexpr size_t kMaxDepth = kMaxJsonDepth;
  // Fields of the top-level object; each is looked up by walking.
  static constexpr size_t kMaxTopFields = 256;

  // The text must be one JSON object; memory is up to 14 times its size while this lives.
  // Errors: kInvalidArgument, naming the field where invalid text or numbers stand.
  static absl::StatusOr<JsonDocument> Parse(std::string text);

  const JsonFields& fields() const { return fields_; }

 private:
  JsonDocument(std::unique_ptr<simdjson::dom::parser> parser, JsonFields fields)
      : parser_(std::move(parser)), fields_(std::move(fields)) {}

  std::unique_ptr<simdjson::dom::parser> parser_;  // owns the document
  JsonFields fields_;
};

}  // namespace longhaul::router::rest
