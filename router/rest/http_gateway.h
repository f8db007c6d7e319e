#pragma once

#include <prometheus/registry.h>

#include <memory>

#include "absl/status/statusor.h"
#include "router/intake.h"
#include "router/rest/http_options.h"

namespace longhaul::router::rest {

// The REST side of the router: OpenAI's API over HTTP/1.1 and server-sent events.
//
// Threads: a few for sockets (one Asio strand per connection; nothing on them takes long) and a few
// that decode bodies. Sink calls come from the router's threads and are posted to the connection's
// strand. Without traffic no thread wakes up.
class HttpGateway {
 public:
  using Options = HttpOptions;

  // Listens from here on. `intake` and `registry` are borrowed and outlive the gateway.
  // Errors: kInvalidArgument (a limit that makes no sense), kUnavailable (the address cannot be
  // bound; names it).
  static absl::StatusOr<std::unique_ptr<HttpGateway>> Start(Options options, Intake& intake,
                                                            prometheus::Registry& registry);
  ~HttpGateway();  // stops
  HttpGateway(const HttpGateway&) = delete;
  HttpGateway& operator=(const HttpGateway&) = delete;

  int port() const;

  // Accepts no more, cancels what runs and tells its clients (503, or an error event at the end of
  // their stream), closes all connections within options.stop_timeout and joins the threads. The
  // intake is not called afterwards. Idempotent; one caller at a time.
  void Stop();

 private:
  class Server;
  explicit HttpGateway(std::unique_ptr<Server> server);

  const std::unique_ptr<Server> server_;
};

}  // namespace longhaul::router::rest
