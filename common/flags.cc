#include "common/flags.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"

namespace longhaul {
namespace {

std::string HelpText(const ConfigField& field) {
  std::string help = field.help;
  if (const auto* choices = std::get_if<OneOf>(&field.limits)) {
    absl::StrAppend(&help, " One of ", absl::StrJoin(choices->values, ", "), ".");
  }
  const std::string value = FieldText(field);
  if (!value.empty()) absl::StrAppend(&help, " [", value, "]");
  return help;
}

std::string SettingsTable(const ConfigFields& fields) {
  std::string table = "| setting | default | limits | meaning |\n|---|---|---|---|\n";
  for (const ConfigField& field : fields) {
    std::string limits;
    if (const auto* bounds = std::get_if<Bounds>(&field.limits)) {
      limits = BoundsText(*bounds);
    } else if (const auto* choices = std::get_if<OneOf>(&field.limits)) {
      limits = absl::StrJoin(choices->values, ", ");
    }
    absl::StrAppend(&table, "| `", field.name, "` | ", FieldText(field), " | ", limits, " | ",
                    field.help, " |\n");
  }
  return table;
}

}  // namespace

void ConfigFlags::AddTo(CLI::App& app, ConfigFields fields) {
  fields_ = std::move(fields);
  app.add_option("--config", config_file_,
                 "YAML file with settings of the same names as the flags.");
  app.add_flag_callback(
      "--settings-table",
      // CLI11's way to print a text and leave with code 0, as for --version.
      [this] { throw CLI::CallForVersion(SettingsTable(fields_), 0); },
      "Print the settings as a Markdown table and exit.");
  for (const ConfigField& field : fields_) {
    std::vector<std::string>& given = given_[field.name];
    CLI::Option* option = app.add_option("--" + field.name, given, HelpText(field));
    if (std::holds_alternative<std::vector<std::string>*>(field.value)) {
      option->take_all()->type_size(1)->allow_extra_args(false);
    } else if (std::holds_alternative<bool*>(field.value)) {
      // --flag alone means true; --flag=false turns a default off.
      option->expected(0, 1)->take_last()->default_str("");
    } else {
      option->expected(1)->take_last();
    }
    option->type_name("");
  }
}

absl::Status ConfigFlags::Resolve() const {
  if (!config_file_.empty()) {
    RETURN_IF_ERROR(ApplyYamlFile(fields_, config_file_));
  }
  for (const ConfigField& field : fields_) {
    const std::vector<std::string>& given = given_.at(field.name);
    if (given.empty()) continue;
    if (auto* list = std::get_if<std::vector<std::string>*>(&field.value)) (*list)->clear();
    for (const std::string& text : given) {
      const bool bare = text.empty() && std::holds_alternative<bool*>(field.value);
      RETURN_IF_ERROR(SetField(fields_, field.name, bare ? "true" : text))
          << "flag --" << field.name;
    }
  }
  return CheckFields(fields_);
}

std::optional<int> ParseCommandLine(CLI::App& app, int argc, char** argv) {
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;  // CLI11 has a code of its own for each kind of error
  }
  return std::nullopt;
}

}  // namespace longhaul
