#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace longhaul::cli {

// The text of a prompt file, byte for byte; "-" is standard input. Errors, which name the file:
// kNotFound (cannot be opened or read), kInvalidArgument (empty; above 64 MiB, which is what a
// router takes; not UTF-8, with the offset of the first wrong byte).
absl::StatusOr<std::string> ReadPromptFile(const std::string& path);

}  // namespace longhaul::cli
