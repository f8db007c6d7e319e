#include "router/rest/request_body.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "router/rest/gunzip.h"
#include "router/rest/openai_error.h"

namespace longhaul::router::rest {
namespace {

bool IsPlain(const std::string& encoding) { return encoding.empty() || encoding == "identity"; }

bool IsKnown(const std::string& encoding) {
  return IsPlain(encoding) || encoding == "gzip" || encoding == "x-gzip" || encoding == "deflate";
}

}  // namespace

std::optional<HttpReply> RefuseContent(const HttpRequest& request) {
  const std::string& type = request.content_type;
  if (!type.empty() && type != "application/json" && !type.ends_with("+json")) {
    return HttpErrorReply(415,
                          absl::StrCat("Content-Type is \"", type, "\", must be application/json"));
  }
  if (!IsKnown(request.content_encoding)) {
    return HttpErrorReply(415, absl::StrCat("Content-Encoding is \"", request.content_encoding,
                                            "\", only gzip and deflate are known"));
  }
  return std::nullopt;
}

absl::StatusOr<std::string> ReadableBody(HttpRequest& request, int64_t limit_bytes) {
  std::string body = std::move(request.body);
  if (IsPlain(request.content_encoding) || body.empty()) return body;
  ASSIGN_OR_RETURN(std::string plain, Gunzip(body, static_cast<size_t>(limit_bytes)));
  if (request.body_lease.has_value() &&
      !request.body_lease->GrowTo(static_cast<int64_t>(plain.size()))) {
    return absl::ResourceExhaustedError("too many request bodies are being read");
  }
  return plain;
}

HttpReply BodyErrorReply(const absl::Status& status) {
  if (absl::IsOutOfRange(status)) {
    return HttpErrorReply(413, {status.message().data(), status.message().size()});
  }
  return ErrorReply(status);
}

}  // namespace longhaul::router::rest
