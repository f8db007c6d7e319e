#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "router/router_config.h"

namespace longhaul::router {

// Where a router that is up listens, host:port.
struct RouterAddresses {
  std::string rest;
  std::string grpc;
};

// Composes a router and runs it until `wait_for_stop` returns, then stops in order: health says
// NOT_SERVING, no request is taken, queued ones fail, running ones get `shutdown_seconds`.
//
// `on_ready` is called when both frontends listen, whether or not a worker is ready. Errors come
// before it: the model cannot be loaded, an address cannot be bound, no worker is given.
absl::Status RunRouter(const RouterConfig& config,
                       const std::function<void(const RouterAddresses&)>& on_ready,
                       const std::function<void()>& wait_for_stop);

}  // namespace longhaul::router
