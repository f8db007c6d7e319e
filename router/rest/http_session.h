#pragma once

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/time/time.h"
#include "router/rest/body_budget.h"
#include "router/rest/http_exchange.h"
#include "router/rest/http_options.h"
#include "router/rest/output_stream.h"
#include "router/rest/sse_writer.h"

namespace longhaul::router::rest {

// One HTTP/1.1 connection: reads a request within its limits, hands it to the handler, writes the
// response, and again. Knows nothing of models.
//
// While a request runs, a read stays pending. End of file there abandons the exchange: a client
// that is gone and one that closed only its sending side look the same, and the first must not keep
// a model busy (docs/life_of_a_request.md). Bytes there, or behind the request, are a pipelined
// request: it is dropped, and the connection closes after the current response. Owned by the strand
// that is the socket's executor; Start, Shutdown and Abort may be called from any thread. Kept
// alive by its pending operations, and by the gateway until it reports `on_closed` (once, on the
// strand).
class HttpSession final : public HttpExchange, public std::enable_shared_from_this<HttpSession> {
 public:
  // `options`, `handler` and `budget` are borrowed and outlive the session.
  HttpSession(boost::asio::ip::tcp::socket socket, const HttpOptions& options, HttpHandler& handler,
              BodyBudget& budget, std::function<void()> on_closed);

  // With a refusal: sends that instead of reading a request, and closes.
  void Start(std::optional<HttpReply> refusal = std::nullopt);
  // Ends politely: an open exchange is abandoned with kUnavailable and its answer flushed.
  void Shutdown();
  // Closes now.
  void Abort();

  // HttpExchange, on the strand.
  boost::asio::any_io_executor executor() override { return socket_->get_executor(); }
  void Reply(HttpReply reply) override;
  void StartStream() override;
  void SendEvent(std::string_view data) override;
  void EndStream() override;
  void OnAbandoned(std::function<void(const absl::Status&)> abandoned) override;

 private:
  using HeadParser = boost::beast::http::request_parser<boost::beast::http::empty_body>;
  using BodyParser = boost::beast::http::request_parser<boost::beast::http::string_body>;
  using Error = boost::system::error_code;

  enum class State {
    kIdle,       // waits for the first byte of a request
    kHead,       // reads the head
    kBody,       // reads the body
    kRunning,    // the handler has the request
    kFlushing,   // the response is complete but not yet accepted
    kLingering,  // waits for the peer to close, so that no reset destroys the response on its way
    kClosed
  };

  void AwaitRequest();
  // What an answer needs even where no head can be read.
  void NameRequest();
  void ReadHead();
  void OnHead(const Error& error);
  // Fills request_ and framing_ from the head; false if it was answered already.
  bool AcceptHead();
  // The same for what the head says of a body that is to come.
  bool AcceptBody();
  void ReadBody();
  void OnBody(const Error& error, size_t num_bytes);
  void OnReadError(const Error& error);
  void Dispatch();

  // The one read that is pending outside of head and body.
  void ReadBytes();
  void OnBytes(const Error& error, size_t num_bytes);
  void OnEndOfInput();
  // Empty lines between requests mean nothing (RFC 9112, 2.2).
  void SkipEmptyLines();
  void RefusePipelined();

  // Answers a request that never reached the handler and closes.
  void Refuse(HttpReply reply);
  void Respond(const HttpReply& reply);
  void Abandon(const absl::Status& status);
  void OnDrained();
  void Linger();
  void Close();

  void ArmTimer(absl::Duration timeout);
  void DisarmTimer();
  void OnTimeout();

  const std::shared_ptr<boost::asio::ip::tcp::socket> socket_;
  const HttpOptions& options_;
  HttpHandler& handler_;
  BodyBudget& budget_;
  std::function<void()> on_closed_;
  std::shared_ptr<OutputStream> output_;

  State state_ = State::kIdle;
  boost::beast::flat_buffer buffer_;  // bytes read and not yet understood
  std::optional<HeadParser> head_parser_;
  std::optional<BodyParser> body_parser_;
  int64_t body_progress_ = 0;  // bytes since the timer was armed
  HttpRequest request_;
  HttpFraming framing_;
  std::shared_ptr<SseWriter> sse_;  // of the current exchange
  std::function<void(const absl::Status&)> abandoned_;
  boost::asio::steady_timer timer_;
  uint64_t timer_serial_ = 0;  // an earlier timer that fires late means nothing
  bool timed_out_ = false;
  bool read_pending_ = false;
  bool peer_done_ = false;  // the peer sends no more
  bool stopping_ = false;
};

}  // namespace longhaul::router::rest
