#include "common/config.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <numeric>
#include <sstream>
#include <type_traits>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"

namespace longhaul {
namespace {

// Levenshtein distance: how far a mistyped name is from a known one.
size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row.back();
}

absl::Status UnknownField(const ConfigFields& fields, std::string_view name) {
  const auto nearest = std::min_element(
      fields.begin(), fields.end(), [name](const ConfigField& a, const ConfigField& b) {
        return EditDistance(name, a.name) < EditDistance(name, b.name);
      });
  std::string message = absl::StrCat("unknown setting \"", std::string(name), "\"");
  if (nearest != fields.end()) absl::StrAppend(&message, "; did you mean \"", nearest->name, "\"?");
  return absl::NotFoundError(message);
}

const ConfigField* Find(const ConfigFields& fields, std::string_view name) {
  for (const ConfigField& field : fields) {
    if (field.name == name) return &field;
  }
  return nullptr;
}

absl::Status WrongType(const ConfigField& field, std::string_view text, std::string_view wanted) {
  return absl::InvalidArgumentError(
      absl::StrCat(field.name, " is \"", std::string(text), "\", must be ", std::string(wanted)));
}

absl::Status SetValue(const ConfigField& field, const std::string& text) {
  return std::visit(
      [&](auto* value) -> absl::Status {
        using T = std::remove_pointer_t<decltype(value)>;
        if constexpr (std::is_same_v<T, bool>) {
          if (!absl::SimpleAtob(text, value)) return WrongType(field, text, "true or false");
        } else if constexpr (std::is_integral_v<T>) {
          T parsed = 0;
          if (!absl::SimpleAtoi(text, &parsed)) return WrongType(field, text, "a whole number");
          *value = parsed;
        } else if constexpr (std::is_same_v<T, double>) {
          double parsed = 0;
          if (!absl::SimpleAtod(text, &parsed)) return WrongType(field, text, "a number");
          *value = parsed;
        } else if constexpr (std::is_same_v<T, std::string>) {
          *value = text;
        } else {
          value->push_back(text);
        }
        return absl::OkStatus();
      },
      field.value);
}

absl::Status SetFromYaml(const ConfigField& field, const YAML::Node& node) {
  auto* list = std::get_if<std::vector<std::string>*>(&field.value);
  if (list != nullptr) (*list)->clear();
  if (node.IsSequence()) {
    if (list == nullptr) return WrongType(field, "a list", "a single value");
    for (const YAML::Node& item : node) {
      if (!item.IsScalar()) return WrongType(field, "a nested list", "a list of plain values");
      RETURN_IF_ERROR(SetValue(field, item.Scalar()));
    }
    return absl::OkStatus();
  }
  if (!node.IsScalar()) return WrongType(field, "a mapping or null", "a plain value");
  return SetValue(field, node.Scalar());
}

}  // namespace

absl::Status SetField(const ConfigFields& fields, std::string_view name, std::string_view text) {
  const ConfigField* field = Find(fields, name);
  if (field == nullptr) return UnknownField(fields, name);
  return SetValue(*field, std::string(text));
}

std::vector<std::string> FlagsFor(const ConfigFields& fields) {
  std::vector<std::string> flags;
  for (const ConfigField& field : fields) {
    const std::string name = absl::StrCat("--", field.name);
    if (const auto* flag = std::get_if<bool*>(&field.value)) {
      flags.push_back(absl::StrCat(name, **flag ? "=true" : "=false"));
    } else if (const auto* text = std::get_if<std::string*>(&field.value)) {
      flags.insert(flags.end(), {name, **text});
    } else if (const auto* list = std::get_if<std::vector<std::string>*>(&field.value)) {
      for (const std::string& item : **list) flags.insert(flags.end(), {name, item});
    } else if (const auto* real = std::get_if<double*>(&field.value)) {
      flags.insert(flags.end(), {name, absl::StrCat(**real)});
    } else if (const auto* wide = std::get_if<int64_t*>(&field.value)) {
      flags.insert(flags.end(), {name, absl::StrCat(**wide)});
    } else {
      flags.insert(flags.end(), {name, absl::StrCat(*std::get<int32_t*>(field.value))});
    }
  }
  return flags;
}

absl::Status ApplyYamlFile(const ConfigFields& fields, const std::string& path) {
  // Read whole, then parsed: yaml-cpp loses its buffer when a stream's read throws, as a
  // directory's does.
  std::ifstream file(path);
  std::ostringstream text;
  if (!file || !(text << file.rdbuf()) || file.bad()) {
    return absl::NotFoundError(absl::StrCat("cannot read configuration file ", path));
  }
  try {
    const YAML::Node root = YAML::Load(text.str());
    if (root.IsNull()) return absl::OkStatus();
    if (!root.IsMap()) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": the top level must be a mapping of settings"));
    }
    for (const auto& entry : root) {
      const std::string where = absl::StrCat(path, ":", entry.first.Mark().line + 1);
      if (!entry.first.IsScalar()) {
        return absl::InvalidArgumentError(absl::StrCat(where, ": a key must be a plain word"));
      }
      const ConfigField* field = Find(fields, entry.first.Scalar());
      if (field == nullptr) {
        RETURN_IF_ERROR(UnknownField(fields, entry.first.Scalar())) << where;
      }
      RETURN_IF_ERROR(SetFromYaml(*field, entry.second)) << where;
    }
  } catch (const YAML::Exception& error) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ":", error.mark.line + 1, ": not YAML: ", error.msg));
  }
  return absl::OkStatus();
}

absl::Status CheckFields(const ConfigFields& fields) {
  for (const ConfigField& field : fields) {
    if (const auto* bounds = std::get_if<Bounds>(&field.limits)) {
      const auto value = std::visit(
          [](auto* pointer) -> double {
            if constexpr (std::is_arithmetic_v<std::remove_pointer_t<decltype(pointer)>>) {
              return static_cast<double>(*pointer);
            } else {
              return static_cast<double>(pointer->size());
            }
          },
          field.value);
      // Written so that a NaN fails.
      if (!(value >= bounds->low && value <= bounds->high)) {
        return absl::InvalidArgumentError(absl::StrCat(field.name, " is ", FieldText(field),
                                                       ", must be from ", BoundsText(*bounds)));
      }
    } else if (const auto* choices = std::get_if<OneOf>(&field.limits)) {
      const std::string& value = *std::get<std::string*>(field.value);
      if (std::find(choices->values.begin(), choices->values.end(), value) ==
          choices->values.end()) {
        return absl::InvalidArgumentError(absl::StrCat(field.name, " is \"", value,
                                                       "\", must be one of ",
                                                       absl::StrJoin(choices->values, ", ")));
      }
    }
  }
  return absl::OkStatus();
}

std::string BoundsText(const Bounds& bounds) {
  // StrCat alone writes 1048576 as 1.04858e+06.
  const auto text = [](double value) {
    return value == std::floor(value) && std::abs(value) < 1e15
               ? absl::StrCat(static_cast<int64_t>(value))
               : absl::StrCat(value);
  };
  return absl::StrCat(text(bounds.low), " to ", text(bounds.high));
}

std::string FieldText(const ConfigField& field) {
  return std::visit(
      [](auto* value) -> std::string {
        using T = std::remove_pointer_t<decltype(value)>;
        if constexpr (std::is_same_v<T, bool>) {
          return *value ? "true" : "false";
        } else if constexpr (std::is_same_v<T, std::vector<std::string>>) {
          return absl::StrJoin(*value, ",");
        } else {
          return absl::StrCat(*value);
        }
      },
      field.value);
}

}  // namespace longhaul
