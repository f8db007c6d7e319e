#include "router/rest/cors.h"

#include <algorithm>
#include <cctype>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "router/rest/openai_error.h"

namespace longhaul::router::rest {
namespace {

constexpr std::string_view kMaxAgeSeconds = "600";
constexpr size_t kMaxRequestedHeadersBytes = 4096;

// scheme://host[:port] in lower case: what a browser sends is compared byte by byte.
bool IsOrigin(std::string_view text) {
  const size_t scheme_end = text.find("://");
  if (scheme_end == 0 || scheme_end == text.npos) return false;
  const std::string_view host = text.substr(scheme_end + 3);
  return !host.empty() && std::ranges::all_of(text, [](unsigned char c) {
    return c > 0x20 && c < 0x7F && std::isupper(c) == 0;
  }) && host.find_first_of("/?#@*,\"") == host.npos;
}

// Names of headers between commas. What is repeated to the browser cannot end a line.
bool IsHeaderList(std::string_view text) {
  constexpr std::string_view kOthers = "!#$%&'*+-.^_`|~, ";
  return !text.empty() && text.size() <= kMaxRequestedHeadersBytes &&
         std::ranges::all_of(text, [kOthers](unsigned char c) {
           return (c < 0x80 && std::isalnum(c) != 0) ||
                  kOthers.find(static_cast<char>(c)) != kOthers.npos;
         });
}

}  // namespace

absl::StatusOr<CorsPolicy> CorsPolicy::For(std::vector<std::string> origins) {
  for (const std::string& origin : origins) {
    if (origin == "*" || IsOrigin(origin)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("allowed-origins: \"", origin,
                     "\" is no origin: expected \"*\" or scheme://host[:port] in lower case, "
                     "without a path"));
  }
  CorsPolicy policy;
  policy.allows_all_ = std::ranges::find(origins, "*") != origins.end();
  policy.origins_ = std::move(origins);
  return policy;
}

bool CorsPolicy::Allows(std::string_view origin) const {
  return allows_all_ || std::ranges::find(origins_, origin) != origins_.end();
}

std::string CorsPolicy::HeaderLines(std::string_view origin) const {
  if (origins_.empty()) return "";
  // A cache must not hand one origin's answer to another.
  std::string lines = allows_all_ ? "" : "Vary: Origin\r\n";
  if (!Allows(origin)) return lines;
  absl::StrAppend(&lines, "Access-Control-Allow-Origin: ", allows_all_ ? "*" : std::string(origin),
                  "\r\nAccess-Control-Expose-Headers: X-Request-Id, Retry-After\r\n");
  return lines;
}

std::optional<HttpReply> CorsPolicy::AnswerPreflight(const CorsRequest& request) const {
  if (origins_.empty() || request.method != "OPTIONS" || request.origin.empty() ||
      request.requested_method.empty()) {
    return std::nullopt;
  }
  if (!Allows(request.origin)) {
    return HttpErrorReply(403, absl::StrCat("the origin \"", request.origin,
                                            "\" is not among this server's allowed-origins"));
  }
  HttpReply reply{.status = 204};
  reply.headers.emplace_back("Access-Control-Allow-Methods", "GET, HEAD, POST");
  // "*" would not stand for Authorization; clients' libraries add headers of their own.
  if (IsHeaderList(request.requested_headers)) {
    reply.headers.emplace_back("Access-Control-Allow-Headers", request.requested_headers);
  }
  reply.headers.emplace_back("Access-Control-Max-Age", std::string(kMaxAgeSeconds));
  return reply;
}

}  // namespace longhaul::router::rest
