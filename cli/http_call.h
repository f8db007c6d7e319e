#pragma once

#include <array>
#include <boost/asio/io_context.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace longhaul::cli {

// One POST of a JSON body over a connection of its own, its answer handed out as it comes. Knows
// nothing of what is asked. Owned by the thread that runs its io_context.
//
// Every wait ends: connecting, sending and the pause between two pieces of the answer after
// `silence`, the whole call after `total`.
class HttpCall : public std::enable_shared_from_this<HttpCall> {
 public:
  struct Request {
    std::string address;  // host:port, numeric
    std::string path;
    std::shared_ptr<const std::string> body;  // shared with who may send it again
  };
  struct Limits {
    absl::Duration silence = absl::InfiniteDuration();
    absl::Duration total = absl::Hours(24);
  };
  struct Head {
    int status = 0;
    std::string request_id;                     // X-Request-Id, if there is one
    std::optional<absl::Duration> retry_after;  // Retry-After, if it is a number of seconds
  };
  struct Handlers {
    std::function<void(const Head&)> on_head;
    std::function<void(std::string_view)> on_body;  // pieces of at most 64 KiB
    // Last of all, once: OK after a whole answer, whatever its status code; kUnavailable
    // (connection refused, broken), kDeadlineExceeded.
    std::function<void(const absl::Status&)> on_end;
  };

  // No handler is called before this returns.
  static std::shared_ptr<HttpCall> Start(boost::asio::io_context& context, Request request,
                                         Limits limits, Handlers handlers);

  // Closes the connection; no handler is called any more, and what they hold is let go. Idempotent.
  void Cancel();

 private:
  using Body = boost::beast::http::buffer_body;

  HttpCall(boost::asio::io_context& context, Request request, Limits limits, Handlers handlers);
  void Connect();
  void Send();
  void ReadHead();
  void ReadBody();
  void Arm();
  void End(const char* what, boost::beast::error_code error);
  void End(const absl::Status& status);

  const Request request_;
  const Limits limits_;
  const absl::Time deadline_;
  Handlers handlers_;
  boost::beast::tcp_stream stream_;
  boost::beast::http::request<boost::beast::http::span_body<const char>> message_;
  boost::beast::flat_buffer buffer_;  // at most a head
  boost::beast::http::response_parser<Body> parser_;
  std::array<char, size_t{64} << 10> piece_;
  boost::beast::error_code send_error_;
  bool ended_ = false;
};

}  // namespace longhaul::cli
