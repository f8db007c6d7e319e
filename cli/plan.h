#pragma once

#include <string>

#include "cli/plan_config.h"

namespace longhaul::cli {

// `longhaul plan`: what to expect of a model on given cards before any is rented: whether it fits,
// and the time to the first token; or a simulation of that alone. Writes to standard output; errors
// go to standard error. Returns the exit code: 0, or 2 for a setting or model that cannot be
// planned and for a model that does not fit, whose figures are written all the same.
int Plan(const std::string& model_dir, const PlanConfig& config, const PlanTask& task);

}  // namespace longhaul::cli
