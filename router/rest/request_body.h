#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "router/rest/http_exchange.h"

namespace longhaul::router::rest {

// The 415 for a body that is not JSON, or in an encoding that ReadableBody does not undo (it undoes
// gzip and deflate). A body of no stated type is taken for JSON.
std::optional<HttpReply> RefuseContent(const HttpRequest& request);

// Takes the body out of `request`, decompressed if it came so. Slow for a large body: call on a
// DecodePool. Errors: kInvalidArgument (damaged), kOutOfRange (more than `limit_bytes`),
// kResourceExhausted (no room for it besides other bodies).
absl::StatusOr<std::string> ReadableBody(HttpRequest& request, int64_t limit_bytes);

// The response to an error of a request's body or content; kOutOfRange is 413 here.
HttpReply BodyErrorReply(const absl::Status& status);

}  // namespace longhaul::router::rest
