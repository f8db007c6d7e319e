#pragma once

#include <string>

#include "absl/status/status.h"
#include "cli/serve_config.h"

namespace longhaul::cli {

// Starts `longhaul-worker leader` and `longhaul-router` from the folder of this program, prints one
// line when a request would be answered, and runs until SIGTERM, SIGINT or SIGHUP (then stops both
// in order and returns OK) or until one of them ends by itself (kUnavailable, saying which and how;
// the other is stopped). Nothing it started outlives it, however it ends.
//
// Must be called on the main thread before other threads exist: it blocks the signals it waits for.
absl::Status Serve(const std::string& model_dir, const ServeConfig& config);

}  // namespace longhaul::cli
