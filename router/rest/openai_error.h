#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "router/rest/http_reply.h"

namespace longhaul::router::rest {

// {"error": {"message", "type", "param", "code"}}: what OpenAI's clients make exceptions of.
// The status map is the failure map of docs/architecture.md.
std::string ErrorBody(const absl::Status& status);

// The same as a response, with Retry-After where the status has a hint or a retry makes sense.
HttpReply ErrorReply(const absl::Status& status);

// An error of HTTP itself (no such route, body too large), with OpenAI's body.
HttpReply HttpErrorReply(int http_status, std::string_view message);

}  // namespace longhaul::router::rest
