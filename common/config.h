#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"

namespace longhaul {

// Limits of a number, both ends included.
struct Bounds {
  double low = 0;
  double high = 0;
};

// The values a string field may take.
struct OneOf {
  std::vector<std::string> values;
};

// One setting of a program: its name is the flag (--name) and the YAML key. Points into a config
// struct, which must outlive it. A list field takes a YAML sequence or a repeated flag.
struct ConfigField {
  std::string name;
  std::string help;  // one sentence with the unit
  std::variant<bool*, int32_t*, int64_t*, double*, std::string*, std::vector<std::string>*> value;
  std::variant<std::monostate, Bounds, OneOf> limits;
};
using ConfigFields = std::vector<ConfigField>;

namespace internal {

struct FieldCollector {
  ConfigFields fields;
  template <typename T>
  void operator()(std::string name, T& value, std::string help) {
    fields.push_back({std::move(name), std::move(help), &value, {}});
  }
  template <typename T>
  void operator()(std::string name, T& value, Bounds bounds, std::string help) {
    fields.push_back({std::move(name), std::move(help), &value, bounds});
  }
  void operator()(std::string name, std::string& value, OneOf values, std::string help) {
    fields.push_back({std::move(name), std::move(help), &value, std::move(values)});
  }
};

}  // namespace internal

// The fields of a config struct, in the order in which its VisitFields names them:
//
//   struct RankConfig { int32_t threads = 0; std::string device = "cpu"; };
//   template <typename V>
//   void VisitFields(V&& v, RankConfig& c) {
//     v("threads", c.threads, Bounds{0, 1024}, "Threads of the CPU backend; 0 = one a core.");
//     v("device", c.device, OneOf{{"cpu"}}, "What the rank computes on.");
//   }
//
// That one list gives the flags, the YAML keys, the limits, --help and docs/configuration.md.
template <typename Config>
ConfigFields FieldsOf(Config& config) {
  internal::FieldCollector collector;
  VisitFields(collector, config);
  return std::move(collector.fields);
}

// The fields as a command line gives them: "--name", "value", ... (a list field is repeated).
std::vector<std::string> FlagsFor(const ConfigFields& fields);

// Sets one field from text. A list field is appended to. kInvalidArgument: the text is not of the
// field's type; kNotFound: no such field (the message names the nearest one).
absl::Status SetField(const ConfigFields& fields, std::string_view name, std::string_view text);

// Sets the fields that a YAML mapping names. Errors name file, line and key; an unknown key names
// the nearest known one. kNotFound if the file cannot be read.
absl::Status ApplyYamlFile(const ConfigFields& fields, const std::string& path);

// Every value within its limits; the error names field, value and limit.
absl::Status CheckFields(const ConfigFields& fields);

// "0 to 1048576".
std::string BoundsText(const Bounds& bounds);

// The value as it would be typed; lists joined by commas.
std::string FieldText(const ConfigField& field);

}  // namespace longhaul
