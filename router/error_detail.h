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

// `status` with the field set.
absl::Status AtField(std::string_view field, absl::Status status);

// kNotFound about the field "model". A name that is too long for one is not repeated in the
// message: gRPC's clients drop a status of more than some KiB.
absl::Status UnknownModel(std::string_view name, std::string_view served);

absl::Status WithRetryAfter(absl::Status status, double seconds);

// The details of `status`; empty ones if it carries none.
ErrorDetail DetailOf(const absl::Status& status);

}  // namespace longhaul::router
