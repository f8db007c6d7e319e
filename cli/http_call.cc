#include "cli/http_call.h"

#include <algorithm>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace longhaul::cli {
namespace {

namespace beast = boost::beast;
namespace http = boost::beast::http;
using boost::asio::ip::tcp;

constexpr uint32_t kMaxHeadBytes = 32 << 10;
constexpr int64_t kMaxRetryAfterSeconds = 86400;

HttpCall::Head HeadOf(const http::response<http::buffer_body>& response) {
  HttpCall::Head head{.status = static_cast<int>(response.result_int()),
                      .request_id = std::string(response["X-Request-Id"]),
                      .retry_after = std::nullopt};
  int64_t seconds = 0;
  if (absl::SimpleAtoi(std::string(response[http::field::retry_after]), &seconds)) {
    head.retry_after = absl::Seconds(std::clamp<int64_t>(seconds, 0, kMaxRetryAfterSeconds));
  }
  return head;
}

}  // namespace

std::shared_ptr<HttpCall> HttpCall::Start(boost::asio::io_context& context, Request request,
                                          Limits limits, Handlers handlers) {
  const std::shared_ptr<HttpCall> call(
      new HttpCall(context, std::move(request), limits, std::move(handlers)));
  boost::asio::post(context, [call] { call->Connect(); });
  return call;
}

HttpCall::HttpCall(boost::asio::io_context& context, Request request, Limits limits,
                   Handlers handlers)
    : request_(std::move(request)),
      limits_(limits),
      deadline_(absl::Now() + limits.total),
      handlers_(std::move(handlers)),
      stream_(context),
      message_(http::verb::post, request_.path, 11) {
  message_.set(http::field::host, request_.address);
  message_.set(http::field::connection, "close");
  message_.set(http::field::content_type, "application/json");
  message_.body() = {request_.body->data(), request_.body->size()};
  message_.prepare_payload();
  parser_.header_limit(kMaxHeadBytes);
  parser_.body_limit(boost::none);  // who takes the pieces bounds them
}

void HttpCall::Cancel() {
  if (std::exchange(ended_, true)) return;
  stream_.close();
  // Not from within one of them.
  boost::asio::post(stream_.get_executor(), [self = shared_from_this()] { self->handlers_ = {}; });
}

void HttpCall::Connect() {
  if (ended_) return;
  const size_t colon = request_.address.rfind(':');
  uint32_t port = 0;
  beast::error_code error;
  const auto address = boost::asio::ip::make_address(request_.address.substr(0, colon), error);
  if (error || colon == std::string::npos ||
      !absl::SimpleAtoi(request_.address.substr(colon + 1), &port) || port > 65535) {
    return End(absl::InvalidArgumentError(
        absl::StrCat("\"", request_.address, "\" is no numeric address and port")));
  }
  Arm();
  stream_.async_connect(tcp::endpoint(address, static_cast<uint16_t>(port)),
                        [self = shared_from_this()](beast::error_code failed) {
                          if (failed) return self->End("connecting to", failed);
                          self->Send();
                        });
}

void HttpCall::Send() {
  if (ended_) return;
  Arm();
  http::async_write(stream_, message_,
                    [self = shared_from_this()](beast::error_code failed, size_t) {
                      if (failed == beast::error::timeout) {
                        return self->End("sending the request to", failed);
                      }
                      // A server may answer and close before it has read all of a body that it
                      // refuses: the answer says more than the broken pipe.
                      self->send_error_ = failed;
                      self->ReadHead();
                    });
}

void HttpCall::ReadHead() {
  if (ended_) return;
  Arm();
  http::async_read_header(stream_, buffer_, parser_,
                          [self = shared_from_this()](beast::error_code failed, size_t) {
                            if (self->ended_) return;
                            if (failed && self->send_error_) {
                              return self->End("sending the request to", self->send_error_);
                            }
                            if (failed) return self->End("waiting for the answer of", failed);
                            self->handlers_.on_head(HeadOf(self->parser_.get()));
                            self->ReadBody();
                          });
}

void HttpCall::ReadBody() {
  if (ended_) return;
  if (parser_.is_done()) return End(absl::OkStatus());
  Arm();
  parser_.get().body().data = piece_.data();
  parser_.get().body().size = piece_.size();
  http::async_read_some(stream_, buffer_, parser_,
                        [self = shared_from_this()](beast::error_code failed, size_t) {
                          if (self->ended_) return;
                          if (failed == http::error::need_buffer) failed = {};  // the piece is full
                          const size_t size = self->piece_.size() - self->parser_.get().body().size;
                          if (size > 0) self->handlers_.on_body({self->piece_.data(), size});
                          if (failed) return self->End("reading the answer of", failed);
                          self->ReadBody();
                        });
}

void HttpCall::Arm() {
  const absl::Duration left = std::min(limits_.silence, deadline_ - absl::Now());
  stream_.expires_after(absl::ToChronoMilliseconds(std::max(left, absl::Milliseconds(1))));
}

void HttpCall::End(const char* what, beast::error_code error) {
  if (ended_) return;
  const std::string where = absl::StrCat(what, " ", request_.address);
  if (error != beast::error::timeout) {
    return End(absl::UnavailableError(absl::StrCat(where, ": ", error.message())));
  }
  const bool total = absl::Now() >= deadline_ - absl::Milliseconds(1);
  End(absl::DeadlineExceededError(
      absl::StrCat(where, ": ", total ? "not done within " : "nothing happened for ",
                   absl::FormatDuration(total ? limits_.total : limits_.silence))));
}

void HttpCall::End(const absl::Status& status) {
  if (std::exchange(ended_, true)) return;
  stream_.close();
  const Handlers handlers = std::exchange(handlers_, {});
  handlers.on_end(status);
}

}  // namespace longhaul::cli
