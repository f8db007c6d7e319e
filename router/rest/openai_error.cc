#include "router/rest/openai_error.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "router/error_detail.h"

namespace longhaul::router::rest {
namespace {

using Json = nlohmann::ordered_json;

struct Mapping {
  int http_status;
  const char* type;
  const char* code;  // null = none
};

Mapping MappingOf(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kOutOfRange:
      return {400, "invalid_request_error", nullptr};
    case absl::StatusCode::kUnauthenticated:
      return {401, "authentication_error", "invalid_api_key"};
    case absl::StatusCode::kPermissionDenied:
      return {403, "permission_error", nullptr};
    case absl::StatusCode::kNotFound:
      return {404, "invalid_request_error", "model_not_found"};
    case absl::StatusCode::kResourceExhausted:
      return {429, "rate_limit_error", "rate_limit_exceeded"};
    case absl::StatusCode::kCancelled:
      return {499, "cancelled", "cancelled"};
    case absl::StatusCode::kUnimplemented:
      return {501, "invalid_request_error", "unsupported"};
    case absl::StatusCode::kUnavailable:
      return {503, "service_unavailable", "service_unavailable"};
    case absl::StatusCode::kDeadlineExceeded:
      return {504, "timeout", "deadline_exceeded"};
    default:
      return {500, "server_error", nullptr};
  }
}

// What messages quote may be as long as a request.
constexpr size_t kMaxMessageBytes = 2048;

std::string Body(std::string_view message, const char* type, const std::string& field,
                 const char* code) {
  Json error;
  error["message"] = std::string(message.substr(0, kMaxMessageBytes)) +
                     (message.size() > kMaxMessageBytes ? "..." : "");
  error["type"] = type;
  error["param"] = field.empty() ? Json(nullptr) : Json(field);
  error["code"] = code == nullptr ? Json(nullptr) : Json(code);
  // Messages quote what the client sent, which may be no UTF-8.
  return Json{{"error", std::move(error)}}.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

std::string ErrorBody(const absl::Status& status) {
  const Mapping mapping = MappingOf(status.code());
  return Body(std::string(status.message()), mapping.type, DetailOf(status).field, mapping.code);
}

HttpReply ErrorReply(const absl::Status& status) {
  const int http_status = MappingOf(status.code()).http_status;
  HttpReply reply{.status = http_status, .body = ErrorBody(status)};
  const std::optional<double> hint = DetailOf(status).retry_after_seconds;
  if (hint.has_value() || http_status == 429 || http_status == 503) {
    const double seconds = std::clamp(std::ceil(hint.value_or(1)), 1.0, 86400.0);
    reply.headers.emplace_back("Retry-After", std::to_string(static_cast<int>(seconds)));
  }
  return reply;
}

HttpReply HttpErrorReply(int http_status, std::string_view message) {
  const char* type = http_status == 503 ? "service_unavailable" : "invalid_request_error";
  HttpReply reply{.status = http_status, .body = Body(message, type, "", nullptr)};
  if (http_status == 503) reply.headers.emplace_back("Retry-After", "1");
  return reply;
}

}  // namespace longhaul::router::rest
