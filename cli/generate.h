#pragma once

#include <string>

#include "cli/generate_config.h"

namespace longhaul::cli {

// `longhaul generate`: the programs of `serve`, asked by this process until the task is done, so
// that offline runs go through the code that serves. Generated text goes to standard output,
// everything else to standard error.
//
// Returns the exit code: 0 all is answered; 1 something failed (an error line for each request of a
// file, or a message); 2 the task or its files are not as they must be, and nothing was asked; 128
// + number of the signal that stopped it.
//
// Must be called on the main thread before other threads exist (SignalWatch).
int Generate(const std::string& model_dir, const GenerateConfig& config, const GenerateTask& task);

}  // namespace longhaul::cli
