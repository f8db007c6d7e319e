#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cli/engine_config.h"
#include "common/config.h"

namespace longhaul::cli {

// `longhaul serve`: a router and local groups from one command. What is not about this command
// is handed on to the program it concerns.
struct ServeConfig {
  std::string host = "127.0.0.1";
  int32_t port = 8000;
  int32_t grpc_port = 9000;
  std::vector<std::string> allowed_origins;
  EngineConfig engine;
};

template <typename V>
void VisitFields(V&& v, ServeConfig& c) {
  v("host", c.host, "Address that REST and gRPC listen on.");
  v("port", c.port, Bounds{0, 65535}, "Port of the OpenAI-compatible REST API; 0 = any free one.");
  v("grpc-port", c.grpc_port, Bounds{0, 65535}, "Port of the gRPC API; 0 = any free one.");
  v("allowed-origins", c.allowed_origins,
    "Origin of web pages that may use REST from a browser (CORS), https://host[:port] or * for "
    "any; one or more, none = off.");
  VisitFields(v, c.engine);
}

}  // namespace longhaul::cli
