#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace longhaul::router::rest {

// Decompresses gzip (RFC 1952; members one behind another are one body) or zlib (RFC 1950) data.
// Pure. Errors: kInvalidArgument if it is neither, damaged, cut short, or if anything else follows;
// kOutOfRange as soon as more than
// `limit_bytes` come out, so that a small body cannot become a large one.
absl::StatusOr<std::string> Gunzip(std::string_view data, size_t limit_bytes);

}  // namespace longhaul::router::rest
