#include "router/rest/http_head.h"

#include <algorithm>
#include <charconv>

#include "absl/strings/ascii.h"

namespace longhaul::router::rest {
namespace {

namespace http = boost::beast::http;

constexpr size_t kMaxRequestIdBytes = 128;
constexpr size_t kMaxTimeoutBytes = 64;

bool IsPrintable(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c > 0x20 && c < 0x7F; });
}

// version "-" trace id "-" parent id "-" flags, lower-case hexadecimal.
bool IsTraceparent(std::string_view text) {
  if (text.size() != 55) return false;
  for (size_t i = 0; i < text.size(); i++) {
    const bool dash = i == 2 || i == 35 || i == 52;
    const bool hex = (text[i] >= '0' && text[i] <= '9') || (text[i] >= 'a' && text[i] <= 'f');
    if (dash ? text[i] != '-' : !hex) return false;
  }
  return true;
}

}  // namespace

void ReadHeadFields(const http::request<http::empty_body>& head, HttpRequest& request) {
  request.method = std::string(head.method_string());
  const auto target = head.target();
  request.path = DecodePath({target.data(), target.size()}).value_or("");
  const std::string request_id(head["X-Request-Id"]);
  if (!request_id.empty() && request_id.size() <= kMaxRequestIdBytes && IsPrintable(request_id)) {
    request.client_request_id = request_id;
  }
  std::string traceparent(head["traceparent"]);
  if (IsTraceparent(traceparent)) request.traceparent = std::move(traceparent);
  request.timeout = std::string(head["X-Request-Timeout"].substr(0, kMaxTimeoutBytes));
  const auto content_type = head[http::field::content_type];
  request.content_type =
      absl::AsciiStrToLower(std::string(content_type.substr(0, content_type.find(';'))));
  absl::StripAsciiWhitespace(&request.content_type);
  request.content_encoding =
      absl::AsciiStrToLower(std::string(head[http::field::content_encoding]));
}

CorsRequest ReadCorsRequest(const http::request<http::empty_body>& head) {
  return {.method = std::string(head.method_string()),
          .origin = std::string(head[http::field::origin]),
          .requested_method = std::string(head[http::field::access_control_request_method]),
          .requested_headers = std::string(head[http::field::access_control_request_headers])};
}

std::optional<std::string> DecodePath(std::string_view target) {
  // The absolute form, as for proxies, must be understood by every server (RFC 9112, 3.2.2).
  for (const std::string_view scheme : {"http://", "https://"}) {
    if (!target.starts_with(scheme)) continue;
    target.remove_prefix(std::min(target.find('/', scheme.size()), target.size()));
    if (target.empty()) target = "/";
  }
  const std::string_view path = target.substr(0, target.find_first_of("?#"));
  std::string decoded;
  for (size_t i = 0; i < path.size(); i++) {
    if (path[i] != '%') {
      decoded += path[i];
      continue;
    }
    unsigned value = 0;
    const char* begin = path.data() + i + 1;
    if (i + 2 >= path.size() || std::from_chars(begin, begin + 2, value, 16).ptr != begin + 2) {
      return std::nullopt;
    }
    decoded += static_cast<char>(value);
    i += 2;
  }
  return decoded;
}

}  // namespace longhaul::router::rest
