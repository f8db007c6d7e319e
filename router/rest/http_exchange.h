#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "common/types.h"
#include "router/rest/body_budget.h"
#include "router/rest/http_reply.h"

namespace longhaul::router::rest {

// A request as it was read from a connection. Moves.
struct HttpRequest {
  std::string method;
  std::string path;  // percent-decoded, without the query
  RequestId id = {};
  std::string client_request_id = {};  // X-Request-Id if printable and short; else the id
  std::string traceparent = {};        // W3C trace context if well-formed
  std::string timeout = {};            // X-Request-Timeout as it came, at most 64 bytes
  std::string content_type = {};       // lower case, without parameters
  std::string content_encoding = {};   // lower case
  std::string body = {};
  std::optional<BodyBudget::Lease> body_lease = {};  // what `body` occupies
};

// The answering side of one request: a whole response, or a stream of events. All calls on
// `executor()`, the strand of the connection. Once the response is complete or the connection gone,
// calls do nothing, so a late answer needs no care.
class HttpExchange {
 public:
  virtual ~HttpExchange() = default;

  virtual boost::asio::any_io_executor executor() = 0;

  // Completes the exchange. Not after StartStream.
  virtual void Reply(HttpReply reply) = 0;

  // Sends the head of an event stream at once; from here on the heartbeat runs. Idempotent.
  virtual void StartStream() = 0;
  // One server-sent event; `data` has no line ends.
  virtual void SendEvent(std::string_view data) = 0;
  // Completes the exchange.
  virtual void EndStream() = 0;

  // `abandoned` is called at most once, and not after completion: with kCancelled when the client
  // is gone, with kUnavailable when the server stops. The exchange should be completed with that
  // error, for a client that closed only its sending side. It lives as long as the exchange. A
  // request without it goes on when its client sends no more.
  virtual void OnAbandoned(std::function<void(const absl::Status&)> abandoned) = 0;
};

// What is behind the HTTP connections. Called on the strands of many connections at the same time;
// outlives them.
class HttpHandler {
 public:
  virtual ~HttpHandler() = default;

  // A request that is refused before its body is read (no such path, wrong method).
  virtual std::optional<HttpReply> Refuse(std::string_view method, std::string_view path) const = 0;

  // Must not block. Answers through `exchange`, now or later.
  virtual void Handle(HttpRequest request, std::shared_ptr<HttpExchange> exchange) = 0;
};

}  // namespace longhaul::router::rest
