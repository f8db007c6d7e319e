#pragma once

#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/message.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "router/rest/cors.h"
#include "router/rest/http_exchange.h"

namespace longhaul::router::rest {

// Fills method, path and what the headers say. Values that are not well-formed (an X-Request-Id of
// other than 1 to 128 printable characters, a foreign traceparent) are left as they are.
void ReadHeadFields(const boost::beast::http::request<boost::beast::http::empty_body>& head,
                    HttpRequest& request);

// What CORS asks of the head.
CorsRequest ReadCorsRequest(
    const boost::beast::http::request<boost::beast::http::empty_body>& head);

// The path of a request target without its query, "%2F" and the like decoded once; nullopt if an
// escape is malformed.
std::optional<std::string> DecodePath(std::string_view target);

}  // namespace longhaul::router::rest
