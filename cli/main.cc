// The command that a person types.
#include <CLI/CLI.hpp>
#include <iostream>
#include <string>

#include "cli/serve.h"
#include "common/flags.h"
#include "common/logging.h"

namespace longhaul::cli {
namespace {

int Main(int argc, char** argv) {
  SetLogProgram("longhaul");
  CLI::App app{"Longhaul serves million-token prompts."};
  app.set_version_flag("--version", LONGHAUL_VERSION);
  app.require_subcommand(1);

  CLI::App* serve = app.add_subcommand("serve", "Serve a model: a router and one local group.");
  std::string model;
  serve->add_option("MODEL", model, "Directory of the model as published on Hugging Face.")
      ->required();
  ServeConfig config;
  ConfigFlags flags;
  flags.AddTo(*serve, FieldsOf(config));

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  }
  absl::Status status = flags.Resolve();
  if (status.ok()) status = Serve(model, config);
  if (!status.ok()) {
    std::cerr << "longhaul: " << status.message() << "\n";
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace longhaul::cli

int main(int argc, char** argv) { return longhaul::cli::Main(argc, argv); }
