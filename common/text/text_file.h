#pragma once

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"

namespace longhaul::text {

// The whole of a small file of a model's directory.
// Errors: kNotFound if there is none, kPermissionDenied and the like if it cannot be opened,
// kInvalidArgument if it has more than `max_bytes`, kUnavailable if reading it fails; all name the
// path.
absl::StatusOr<std::string> ReadTextFile(const std::string& path, size_t max_bytes);

}  // namespace longhaul::text
