#pragma once

#include <string>

namespace longhaul::worker::leader {

// `address` as given to a gRPC server, with the port it was bound to instead of port 0. Unix socket
// addresses (unix:/path) stay as they are.
inline std::string ResolvedAddress(const std::string& address, int port) {
  if (address.starts_with("unix:")) return address;
  return address.substr(0, address.rfind(':') + 1) + std::to_string(port);
}

}  // namespace longhaul::worker::leader
