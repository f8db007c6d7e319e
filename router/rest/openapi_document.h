#pragma once

#include <string_view>

namespace longhaul::router::rest {

// The description of this server's REST paths (OpenAPI 3.1): router/rest/openapi.json as it is,
// compiled in so that a router serves the description of its own version and needs no file beside
// it. tests/e2e/test_openapi.py holds it against the code. Thread-safe.
std::string_view OpenApiDocument();

}  // namespace longhaul::router::rest
