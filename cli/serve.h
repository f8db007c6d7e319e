#pragma once

#include <string>

#include "absl/status/status.h"
#include "cli/serve_config.h"

namespace longhaul::cli {

// Starts `longhaul-router` and the `longhaul-worker leader` of each group from the folder of this
// program, prints one line when a request would be answered, and runs until SIGTERM, SIGINT or
// SIGHUP (then stops all in order and returns OK) or until one of them ends by itself
// (kUnavailable, saying which and how; the others are stopped). Nothing it started outlives it,
// however it ends.
//
// Must be called on the main thread before other threads exist: it blocks the signals it waits for.
absl::Status Serve(const std::string& model_dir, const ServeConfig& config);

}  // namespace longhaul::cli
