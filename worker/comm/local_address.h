#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace longhaul::worker::comm {

// The numeric address (IPv4 or IPv6) of this machine that `interface`, a network interface, has
// (its IPv4 address if there is one), or else that `host`, a name or an address, means. That it can
// be bound to has been tried; it is one address, not all of them (0.0.0.0, ::). May ask the
// resolver. Errors: kInvalidArgument.
absl::StatusOr<std::string> LocalAddress(const std::string& host, const std::string& interface);

// The name of the network interface with that address: `interface` itself, if it is not empty.
// Errors: those of LocalAddress.
absl::StatusOr<std::string> LocalInterface(const std::string& host, const std::string& interface);

}  // namespace longhaul::worker::comm
