#include "router/rest/http_session.h"

#include <algorithm>
#include <boost/asio/dispatch.hpp>
#include <boost/asio/post.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/read.hpp>
#include <cctype>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "router/rest/http_head.h"
#include "router/rest/openai_error.h"
#include "router/rest/request_body.h"

namespace longhaul::router::rest {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;

constexpr size_t kReadStep = 4096;
// The body timeout starts again when this much has come: a byte now and then is not enough.
constexpr int64_t kBodyProgressBytes = 16 << 10;

}  // namespace

HttpSession::HttpSession(asio::ip::tcp::socket socket, const HttpOptions& options,
                         HttpHandler& handler, BodyBudget& budget, std::function<void()> on_closed)
    : socket_(std::make_shared<asio::ip::tcp::socket>(std::move(socket))),
      options_(options),
      handler_(handler),
      budget_(budget),
      on_closed_(std::move(on_closed)),
      // Beast reads up to 64 KiB of a body at a time.
      buffer_(static_cast<size_t>(options.max_header_bytes) + (64 << 10)),
      timer_(socket_->get_executor()) {}

void HttpSession::Start(std::optional<HttpReply> refusal) {
  asio::dispatch(
      socket_->get_executor(), [self = shared_from_this(), refusal = std::move(refusal)]() mutable {
        const std::weak_ptr<HttpSession> weak = self;
        OutputStream::Callbacks callbacks;
        callbacks.drained = [weak] {
          if (const auto session = weak.lock()) session->OnDrained();
        };
        callbacks.failed = [weak](const absl::Status& status) {
          const auto session = weak.lock();
          if (session == nullptr) return;
          if (!session->peer_done_) {  // else its end is known
            LOG(INFO) << "request=" << session->request_.id.ToString()
                      << " event=connection_lost reason=\"" << status.message() << "\"";
          }
          session->Close();
        };
        self->output_ =
            std::make_shared<OutputStream>(self->socket_, self->options_.write_timeout,
                                           self->options_.max_pending_output_bytes, callbacks);
        if (self->stopping_) return self->Close();
        if (!refusal.has_value()) return self->AwaitRequest();
        self->NameRequest();
        self->Refuse(*std::move(refusal));
      });
}

void HttpSession::Shutdown() {
  asio::post(socket_->get_executor(), [self = shared_from_this()] {
    self->stopping_ = true;
    self->framing_.keep_alive = false;
    const absl::Status status = absl::UnavailableError("the server is shutting down");
    switch (self->state_) {
      case State::kRunning:
        self->Abandon(status);
        // Whoever had no way to answer in time is answered for.
        if (self->state_ == State::kRunning) self->Respond(ErrorReply(status));
        return;
      case State::kFlushing:
      case State::kClosed:
        return;
      default:
        return self->Close();
    }
  });
}

void HttpSession::Abort() {
  asio::post(socket_->get_executor(), [self = shared_from_this()] { self->Close(); });
}

// ---- reading ----

void HttpSession::AwaitRequest() {
  state_ = State::kIdle;
  sse_ = nullptr;
  request_ = {};
  framing_ = {};
  if (stopping_) return Close();
  SkipEmptyLines();
  if (buffer_.size() > 0) return ReadHead();
  if (peer_done_) return Close();
  ArmTimer(options_.idle_timeout);
  ReadBytes();
}

void HttpSession::NameRequest() {
  request_.id = RequestId::Random();
  request_.client_request_id = request_.id.ToString();
  framing_.request_id = request_.client_request_id;
  framing_.cors = options_.cors.HeaderLines("");
}

void HttpSession::ReadHead() {
  state_ = State::kHead;
  NameRequest();
  body_parser_.reset();
  head_parser_.emplace();
  head_parser_->header_limit(static_cast<uint32_t>(options_.max_header_bytes));
  head_parser_->body_limit(boost::none);  // AcceptBody refuses with more to say
  ArmTimer(options_.header_timeout);
  http::async_read_header(
      *socket_, buffer_, *head_parser_,
      [self = shared_from_this()](const Error& error, size_t) { self->OnHead(error); });
}

void HttpSession::OnHead(const Error& error) {
  if (state_ != State::kHead) return;
  DisarmTimer();
  if (error) return OnReadError(error);
  if (!AcceptHead()) return;
  if (head_parser_->is_done()) return Dispatch();
  ReadBody();
}

bool HttpSession::AcceptHead() {
  const auto& head = head_parser_->get();
  framing_.http_1_1 = head.version() == 11;
  framing_.keep_alive = head_parser_->keep_alive();
  framing_.head_only = head.method() == http::verb::head;
  ReadHeadFields(head, request_);
  framing_.request_id = request_.client_request_id;
  const CorsRequest cors = ReadCorsRequest(head);
  framing_.cors = options_.cors.HeaderLines(cors.origin);
  std::optional<HttpReply> reply = options_.cors.AnswerPreflight(cors);
  if (!reply.has_value()) reply = handler_.Refuse(request_.method, request_.path);
  if (reply.has_value()) {
    // A body is not read, nor what may be another request.
    if (!head_parser_->is_done() || buffer_.size() > 0) framing_.keep_alive = false;
    Respond(*reply);
    return false;
  }
  return AcceptBody();
}

bool HttpSession::AcceptBody() {
  const auto& head = head_parser_->get();
  const auto refuse = [this](int status, std::string_view message) {
    Refuse(HttpErrorReply(status, message));
    return false;
  };
  const auto num_codings = head.count(http::field::transfer_encoding);
  if (num_codings > 1 ||
      (num_codings == 1 &&
       absl::AsciiStrToLower(std::string(head[http::field::transfer_encoding])) != "chunked")) {
    return refuse(501, "Transfer-Encoding can only be chunked");
  }
  if (head_parser_->is_done()) {
    if (head.method() != http::verb::post || head.has_content_length()) return true;
    return refuse(411, "a POST needs Content-Length or Transfer-Encoding: chunked");
  }
  if (std::optional<HttpReply> refusal = RefuseContent(request_)) {
    Refuse(*std::move(refusal));
    return false;
  }
  const auto length = head_parser_->content_length();
  if (length.has_value() && *length > static_cast<uint64_t>(options_.max_body_bytes)) {
    return refuse(413, absl::StrCat("the body of ", *length, " bytes is larger than the limit of ",
                                    options_.max_body_bytes, " bytes"));
  }
  request_.body_lease.emplace(budget_);
  if (length.has_value() && !request_.body_lease->GrowTo(static_cast<int64_t>(*length))) {
    return refuse(503, "too many request bodies are being read");
  }
  const std::string expect = absl::AsciiStrToLower(std::string(head[http::field::expect]));
  if (expect == "100-continue" && framing_.http_1_1) {
    output_->Write("HTTP/1.1 100 Continue\r\n\r\n");
  } else if (!expect.empty() && expect != "100-continue") {
    return refuse(417, "Expect can only be 100-continue");
  }
  return true;
}

void HttpSession::ReadBody() {
  if (state_ != State::kBody) {
    state_ = State::kBody;
    body_parser_.emplace(std::move(*head_parser_));
    body_parser_->body_limit(static_cast<uint64_t>(options_.max_body_bytes));
    body_progress_ = 0;
    ArmTimer(options_.body_timeout);
  }
  http::async_read_some(*socket_, buffer_, *body_parser_,
                        [self = shared_from_this()](const Error& error, size_t num_bytes) {
                          self->OnBody(error, num_bytes);
                        });
}

void HttpSession::OnBody(const Error& error, size_t num_bytes) {
  if (state_ != State::kBody) return;
  if (error) {
    DisarmTimer();
    return OnReadError(error);
  }
  // A body of unknown length is charged as it grows.
  const auto held = static_cast<int64_t>(body_parser_->get().body().size());
  if (!request_.body_lease->GrowTo(held)) {
    DisarmTimer();
    return Refuse(HttpErrorReply(503, "too many request bodies are being read"));
  }
  if (body_parser_->is_done()) {
    DisarmTimer();
    request_.body = std::move(body_parser_->get().body());
    return Dispatch();
  }
  body_progress_ += static_cast<int64_t>(num_bytes);
  if (body_progress_ >= kBodyProgressBytes) {
    body_progress_ = 0;
    ArmTimer(options_.body_timeout);
  }
  ReadBody();
}

void HttpSession::OnReadError(const Error& error) {
  if (error == asio::error::operation_aborted && timed_out_) {
    return Refuse(HttpErrorReply(408, "the request did not arrive in time"));
  }
  if (error == http::error::body_limit) {
    return Refuse(HttpErrorReply(413, absl::StrCat("the body is larger than the limit of ",
                                                   options_.max_body_bytes, " bytes")));
  }
  if (error == http::error::header_limit || error == http::error::buffer_overflow) {
    return Refuse(HttpErrorReply(431, absl::StrCat("the head is larger than the limit of ",
                                                   options_.max_header_bytes, " bytes")));
  }
  if (error == http::error::bad_version) {
    return Refuse(HttpErrorReply(505, "only HTTP/1.1 and HTTP/1.0 are spoken here"));
  }
  const bool peer_is_gone =
      error == http::error::end_of_stream || error == http::error::partial_message;
  if (!peer_is_gone && error.category() == make_error_code(http::error::bad_value).category()) {
    return Refuse(HttpErrorReply(400, absl::StrCat("malformed HTTP: ", error.message())));
  }
  Close();
}

void HttpSession::Dispatch() {
  state_ = State::kRunning;
  head_parser_.reset();
  body_parser_.reset();
  // What logs and the end of the exchange need stays here.
  HttpRequest request = std::move(request_);
  request_ = {};
  request_.id = request.id;
  SkipEmptyLines();
  if (buffer_.size() > 0) RefusePipelined();
  handler_.Handle(std::move(request), shared_from_this());
  if (state_ == State::kRunning) ReadBytes();
}

void HttpSession::ReadBytes() {
  if (read_pending_ || peer_done_) return;
  read_pending_ = true;
  socket_->async_read_some(buffer_.prepare(kReadStep),
                           [self = shared_from_this()](const Error& error, size_t num_bytes) {
                             self->read_pending_ = false;
                             self->OnBytes(error, num_bytes);
                           });
}

void HttpSession::OnBytes(const Error& error, size_t num_bytes) {
  if (state_ == State::kClosed) return;
  if (error) {
    peer_done_ = true;
    if (state_ == State::kFlushing) {  // may have closed its side after the request
      framing_.keep_alive = false;
      return;
    }
    if (state_ == State::kRunning && error == asio::error::eof) return OnEndOfInput();
    return Close();
  }
  buffer_.commit(num_bytes);
  switch (state_) {
    case State::kIdle:
      SkipEmptyLines();
      return buffer_.size() > 0 ? ReadHead() : ReadBytes();
    case State::kRunning:
      SkipEmptyLines();
      if (buffer_.size() > 0) RefusePipelined();
      return ReadBytes();
    case State::kLingering:
      buffer_.consume(buffer_.size());
      return ReadBytes();
    default:  // kFlushing: the next request, which waits in the buffer
      return;
  }
}

void HttpSession::OnEndOfInput() {
  framing_.keep_alive = false;
  if (!abandoned_) return;
  // Reaches only a client that is still there.
  Abandon(absl::CancelledError(
      "the client closed its side of the connection before the answer, which cancels the request"));
  if (state_ == State::kRunning) Close();
}

void HttpSession::SkipEmptyLines() {
  const auto bytes = buffer_.cdata();
  const std::string_view text(static_cast<const char*>(bytes.data()), bytes.size());
  buffer_.consume(std::min(text.find_first_not_of("\r\n"), text.size()));
}

void HttpSession::RefusePipelined() {
  buffer_.consume(buffer_.size());
  framing_.keep_alive = false;
}

// ---- answering ----

void HttpSession::Reply(HttpReply reply) {
  if (state_ != State::kRunning || sse_ != nullptr) return;
  Respond(reply);
}

void HttpSession::Refuse(HttpReply reply) {
  framing_.keep_alive = false;
  Respond(reply);
}

void HttpSession::Respond(const HttpReply& reply) {
  state_ = State::kFlushing;
  abandoned_ = nullptr;
  output_->Write(SerializeReply(reply, framing_));
}

void HttpSession::StartStream() {
  if (state_ != State::kRunning || sse_ != nullptr) return;
  if (!framing_.http_1_1) framing_.keep_alive = false;
  sse_ = std::make_shared<SseWriter>(
      output_, socket_->get_executor(),
      framing_.http_1_1 ? SseWriter::Framing::kChunked : SseWriter::Framing::kUntilClose,
      options_.heartbeat);
  sse_->Start(SerializeStreamHead(framing_));
}

void HttpSession::SendEvent(std::string_view data) {
  if (state_ == State::kRunning && sse_ != nullptr) sse_->Event(data);
}

void HttpSession::EndStream() {
  if (state_ != State::kRunning || sse_ == nullptr) return;
  state_ = State::kFlushing;
  abandoned_ = nullptr;
  sse_->Finish();
  if (!framing_.http_1_1 && output_->idle()) Linger();  // nothing was written that would drain
}

void HttpSession::OnAbandoned(std::function<void(const absl::Status&)> abandoned) {
  if (state_ == State::kRunning) abandoned_ = std::move(abandoned);
}

void HttpSession::Abandon(const absl::Status& status) {
  // Taken out first: the callback may complete the exchange.
  if (const auto abandoned = std::exchange(abandoned_, nullptr)) abandoned(status);
}

void HttpSession::OnDrained() {
  if (state_ != State::kFlushing) return;
  framing_.keep_alive ? AwaitRequest() : Linger();
}

void HttpSession::Linger() {
  if (stopping_ || peer_done_) return Close();
  Error ignored;  // the read that follows reports a broken connection
  socket_->shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
  state_ = State::kLingering;
  ArmTimer(options_.linger_timeout);
  buffer_.consume(buffer_.size());
  ReadBytes();
}

void HttpSession::Close() {
  if (state_ == State::kClosed) return;
  const bool running = state_ == State::kRunning;
  state_ = State::kClosed;
  DisarmTimer();
  if (sse_ != nullptr) sse_->Stop();
  if (output_ != nullptr) output_->Stop();
  if (running) Abandon(absl::CancelledError("the client is gone"));
  Error ignored;  // there is nothing left to do with the socket
  socket_->close(ignored);
  if (on_closed_) std::exchange(on_closed_, nullptr)();
}

// ---- time ----

void HttpSession::ArmTimer(absl::Duration timeout) {
  timed_out_ = false;
  timer_.expires_after(absl::ToChronoNanoseconds(timeout));
  timer_.async_wait([weak = weak_from_this(), serial = ++timer_serial_](const Error& error) {
    const std::shared_ptr<HttpSession> self = weak.lock();
    if (!error && self != nullptr && serial == self->timer_serial_) self->OnTimeout();
  });
}

void HttpSession::DisarmTimer() {
  timer_serial_++;
  timer_.cancel();
}

void HttpSession::OnTimeout() {
  if (state_ == State::kHead || state_ == State::kBody) {
    // Aborts the pending read, whose handler sees timed_out_ and answers.
    timed_out_ = true;
    Error error;
    socket_->cancel(error);
    if (error) Close();
    return;
  }
  if (state_ == State::kIdle || state_ == State::kLingering) Close();
}

}  // namespace longhaul::router::rest
