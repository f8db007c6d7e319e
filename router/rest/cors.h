#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "router/rest/http_reply.h"

namespace longhaul::router::rest {

// What a browser says of the page behind a request. Empty: the header is not there.
struct CorsRequest {
  std::string method;
  std::string origin;             // Origin
  std::string requested_method;   // Access-Control-Request-Method
  std::string requested_headers;  // Access-Control-Request-Headers
};

// Which web pages may use the API from a browser (the CORS protocol of the Fetch standard). Value
// type, immutable. Without credentials: no cookie means anything here, and an API key travels in
// Authorization, which a page may send.
class CorsPolicy {
 public:
  // No page of another origin may.
  CorsPolicy() = default;

  // `origins` as browsers write them, "https://app.example.org" or "http://localhost:5173"; "*"
  // stands for every origin; none: the default above. Errors: kInvalidArgument, naming an entry
  // that no browser would send.
  static absl::StatusOr<CorsPolicy> For(std::vector<std::string> origins);

  // Header lines, each with its end, for every answer to a request of `origin`, empty if it is not
  // known or there is none.
  std::string HeaderLines(std::string_view origin) const;

  // The answer to a preflight request, which asks whether another one may be sent; nullopt if this
  // is none, or no page may do anything. Whether the path exists is for the other one to learn.
  std::optional<HttpReply> AnswerPreflight(const CorsRequest& request) const;

 private:
  bool Allows(std::string_view origin) const;

  std::vector<std::string> origins_;
  bool allows_all_ = false;
};

}  // namespace longhaul::router::rest
