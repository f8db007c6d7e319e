#pragma once

#include <string>

#include "absl/time/time.h"

namespace longhaul::cli {

// The status code of GET `path` at `address` (host:port), or 0 if there is no answer within
// `timeout`.
int HttpStatusOf(const std::string& address, const std::string& path, absl::Duration timeout);

}  // namespace longhaul::cli
