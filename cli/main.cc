// The command that a person types.
#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdlib>
#include <iostream>
#include <optional>
#include <string>
#include <type_traits>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "cli/generate.h"
#include "cli/local_cluster.h"
#include "cli/plan.h"
#include "cli/serve.h"
#include "common/flags.h"
#include "common/logging.h"

namespace longhaul::cli {
namespace {

void AddModel(CLI::App& command, std::string& model) {
  command.add_option("MODEL", model, "Directory of the model as published on Hugging Face.")
      ->required();
}

void AddTask(CLI::App& command, GenerateTask& task) {
  command.add_option("--prompt-file", task.prompt_file,
                     "File with one prompt, as it is; - = standard input. The text that is "
                     "generated goes to standard output.");
  PromptOptions& prompt = task.prompt;
  const auto add = [&command](const char* name, auto& value, const char* help) {
    CLI::Option* const option = command.add_option(name, value, help)->expected(1)->type_name("");
    // JSON has no word for other numbers: they would not reach the server.
    if constexpr (std::is_same_v<decltype(value), std::optional<double>&>) {
      option->check([](const std::string& text) {
        double number = 0;
        const bool finite = absl::SimpleAtod(text, &number) && std::isfinite(number);
        return finite ? "" : absl::StrCat("is ", text, ", must be a number");
      });
    }
  };
  bool* const raw = &prompt.raw;
  command.add_flag_callback(
      "--chat", [raw] { *raw = false; }, "The prompt is a user's message (this is the default).");
  command.add_flag_callback(
      "--raw", [raw] { *raw = true; },
      "The prompt is text to go on with, without the chat template.");
  add("--system", prompt.system, "System message of the chat.");
  add("--max-tokens", prompt.max_tokens, "Most tokens to generate.");
  add("--temperature", prompt.temperature, "0 = always the likeliest token.");
  add("--top-p", prompt.top_p, "Share of probability to draw from.");
  add("--top-k", prompt.top_k, "Number of tokens to draw from.");
  add("--min-p", prompt.min_p, "Least probability, as a share of the likeliest token's.");
  add("--repetition-penalty", prompt.repetition_penalty, "Above 1: repeats are less likely.");
  add("--seed", prompt.seed, "Seed of the draws.");
  command.add_option("--stop", prompt.stop, "Text that ends the answer; may be given again.")
      ->take_all()
      ->type_size(1)
      ->allow_extra_args(false)
      ->type_name("");
  command.add_flag("--ignore-eos", prompt.ignore_eos, "Go on after the end of the answer.");
  command.add_option(
      "--input-file", task.input_file,
      "Instead of a prompt: requests, one a line, in the format of OpenAI's batches.");
  command.add_option("--output-file", task.output_file,
                     "Their results, one a line. What is there already is not asked again.");
}

// Where the costs of steps are saved if nothing else is said; empty for a user without a home.
std::string CostFolder() {
  const auto variable = [](const char* name) {
    const char* value = std::getenv(name);
    return std::string(value == nullptr ? "" : value);
  };
  std::string cache = variable("XDG_CACHE_HOME");
  if (cache.empty() || cache.front() != '/') {  // the rule of that variable
    cache = variable("HOME");
    if (cache.empty() || cache.front() != '/') return "";
    cache += "/.cache";
  }
  return cache + "/longhaul/costs";
}

int Main(int argc, char** argv) {
  SetLogProgram("longhaul");
  CLI::App app{"Longhaul serves million-token prompts."};
  app.set_version_flag("--version", LONGHAUL_VERSION);
  app.require_subcommand(1);
  std::string model;

  CLI::App& serve = *app.add_subcommand("serve", "Serve a model: a router and local groups.");
  AddModel(serve, model);
  ServeConfig serve_config;
  ConfigFlags serve_flags;
  serve_flags.AddTo(serve, FieldsOf(serve_config));

  CLI::App& generate = *app.add_subcommand(
      "generate", "Answer one prompt, or a file of requests, without a server.");
  AddModel(generate, model);
  GenerateTask task;
  AddTask(generate, task);
  GenerateConfig generate_config;
  ConfigFlags generate_flags;
  generate_flags.AddTo(generate, FieldsOf(generate_config));

  CLI::App& plan = *app.add_subcommand("plan",
                                       "Tell whether a model fits on given cards and what its "
                                       "first token takes, from its config.json "
                                       "alone.");
  AddModel(plan, model);
  PlanTask plan_task;
  plan.add_flag("--simulate", plan_task.simulate,
                "Simulate the prefill of one prompt through the pipeline instead, chunk by chunk.");
  plan.add_flag("--json", plan_task.json, "Print one JSON object.");
  PlanConfig plan_config;
  ConfigFlags plan_flags;
  plan_flags.AddTo(plan, FieldsOf(plan_config));

  if (const auto exit_code = ParseCommandLine(app, argc, argv)) return *exit_code;
  const auto failed = [](const absl::Status& status, int exit_code) {
    std::cerr << "longhaul: " << status.message() << "\n";
    return exit_code;
  };
  const ConfigFlags& flags =
      serve.parsed() ? serve_flags : (generate.parsed() ? generate_flags : plan_flags);
  absl::Status status = flags.Resolve();
  if (status.ok() && model.empty()) {
    status = absl::InvalidArgumentError("MODEL is empty: it is the directory of a model");
  }
  if (plan.parsed()) {
    return status.ok() ? Plan(model, plan_config, plan_task) : failed(status, 2);
  }
  EngineConfig& engine = serve.parsed() ? serve_config.engine : generate_config.engine;
  if (engine.cost_model_dir == "cache") engine.cost_model_dir = CostFolder();
  if (status.ok()) status = ServedName(model, engine.served_model_name).status();
  if (!status.ok()) return failed(status, 2);
  if (generate.parsed()) return Generate(model, generate_config, task);
  status = Serve(model, serve_config);
  return status.ok() ? 0 : failed(status, 1);
}

}  // namespace
}  // namespace longhaul::cli

int main(int argc, char** argv) { return longhaul::cli::Main(argc, argv); }
