#pragma once

#include <string>

#include "cli/plan_config.h"

namespace longhaul::cli {

// `longhaul plan`: what to expect of a model on given cards before any is rented. Writes to
// standard output; errors go to standard error. Returns the exit code: 0, or 2 for a task, setting
// or model that cannot be planned.
int Plan(const std::string& model_dir, const PlanConfig& config, const PlanTask& task);

}  // namespace longhaul::cli
