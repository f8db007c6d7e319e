#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace longhaul::router {

// What a client can act on beside code and message; carried as payloads of an absl::Status.
struct ErrorDetail {
  std::string field;                          // the request's field at fault, empty if none
  std::optional<double> retry_after_seconds;  // when a retry is likely to be accepted
};

// kInvalidArgument with the field set. The message names value and limit.
absl::Status InvalidField(std::string_view field, std::string_view message);

absl::Status WithRetryAfter(absl::Status status, double seconds);

// The details of `status`; empty ones if it carries none.
ErrorDetail DetailOf(const absl::Status& status);

}  // namespace longhaul::router
