#pragma once

#include <CLI/CLI.hpp>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/config.h"

namespace longhaul {

// The command line of a config struct: one --flag a field, and --config FILE. Included by main.cc
// files only. A flag overrides the file, the file overrides the default.
class ConfigFlags {
 public:
  // Registers the flags. `app` keeps references to this object, which must outlive the parse.
  void AddTo(CLI::App& app, ConfigFields fields);

  // After the parse: file, then flags, then limits. The error names where the value came from.
  absl::Status Resolve() const;

  const ConfigFields& fields() const { return fields_; }

 private:
  ConfigFields fields_;
  std::string config_file_;
  std::map<std::string, std::vector<std::string>> given_;  // by field name
};

// Parses the command line. The exit code if the program is to end: 0 after --help and the like, 2
// after an error in it (standard error says which); nullopt to go on.
std::optional<int> ParseCommandLine(CLI::App& app, int argc, char** argv);

}  // namespace longhaul
