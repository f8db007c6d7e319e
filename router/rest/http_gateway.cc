#include "router/rest/http_gateway.h"

#include <netinet/tcp.h>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <future>
#include <list>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/clock.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "router/rest/body_budget.h"
#include "router/rest/decode_pool.h"
#include "router/rest/http_session.h"
#include "router/rest/openai_error.h"
#include "router/rest/rest_routes.h"

namespace longhaul::router::rest {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using Error = boost::system::error_code;

// After an accept that failed for want of file descriptors; others of them end meanwhile.
constexpr absl::Duration kAcceptPause = absl::Milliseconds(100);
// Connections above the limit that are told so; more are closed at once.
constexpr int64_t kMaxRefusing = 64;

absl::Status CheckOptions(const HttpOptions& options) {
  const std::pair<const char*, int64_t> at_least_one[] = {
      {"num_threads", options.num_threads},
      {"num_decode_threads", options.num_decode_threads},
      {"decode_queue", options.decode_queue},
      {"max_connections", options.max_connections},
      {"max_header_bytes", options.max_header_bytes},
      {"max_body_bytes", options.max_body_bytes},
      {"max_total_body_bytes", options.max_total_body_bytes},
      {"max_pending_output_bytes", options.max_pending_output_bytes},
      {"heartbeat (ms)", absl::ToInt64Milliseconds(options.heartbeat)},
  };
  for (const auto& [name, value] : at_least_one) {
    if (value >= 1) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("HTTP option ", name, " is ", value, ", must be at least 1"));
  }
  return absl::OkStatus();
}

// A peer whose machine vanished is noticed although nothing is sent to it.
void SetUpSocket(tcp::socket& socket, const HttpOptions& options) {
  using KeepIdle = asio::detail::socket_option::integer<IPPROTO_TCP, TCP_KEEPIDLE>;
  using KeepInterval = asio::detail::socket_option::integer<IPPROTO_TCP, TCP_KEEPINTVL>;
  using KeepCount = asio::detail::socket_option::integer<IPPROTO_TCP, TCP_KEEPCNT>;
  using UserTimeout = asio::detail::socket_option::integer<IPPROTO_TCP, TCP_USER_TIMEOUT>;
  Error ignored;  // none of these is needed for the connection to work
  socket.set_option(tcp::no_delay(true), ignored);
  socket.set_option(asio::socket_base::keep_alive(true), ignored);
  socket.set_option(KeepIdle(30), ignored);
  socket.set_option(KeepInterval(10), ignored);
  socket.set_option(KeepCount(3), ignored);
  const int64_t write_ms = absl::ToInt64Milliseconds(options.write_timeout);
  socket.set_option(UserTimeout(static_cast<int>(write_ms)), ignored);
}

}  // namespace

// Members are in the order of construction; everything on the event loop ends in Stop.
class HttpGateway::Server {
 public:
  Server(Options options, Intake& intake, prometheus::Registry& registry)
      : options_(std::move(options)),
        budget_(options_.max_total_body_bytes),
        decode_pool_(options_.num_decode_threads, static_cast<size_t>(options_.decode_queue)),
        routes_({options_, intake, decode_pool_,
                 options_.clock != nullptr ? *options_.clock : system_clock_},
                registry),
        loop_(options_.num_threads),
        work_(loop_.get_executor()),
        strand_(asio::make_strand(loop_)),
        acceptor_(strand_),
        accept_timer_(strand_) {}

  absl::Status Listen() {
    Error error;
    tcp::resolver resolver(loop_);
    const auto endpoints = resolver.resolve(options_.host, std::to_string(options_.port),
                                            tcp::resolver::passive, error);
    const std::string address = absl::StrCat(options_.host, ":", options_.port);
    if (error) {
      return absl::UnavailableError(
          absl::StrCat("cannot resolve ", address, " to listen on: ", error.message()));
    }
    const tcp::endpoint endpoint = endpoints.begin()->endpoint();
    acceptor_.open(endpoint.protocol(), error);
    if (!error) acceptor_.set_option(tcp::acceptor::reuse_address(true), error);
    if (!error) acceptor_.bind(endpoint, error);
    if (!error) acceptor_.listen(asio::socket_base::max_listen_connections, error);
    if (!error) port_ = acceptor_.local_endpoint(error).port();
    if (!error) return absl::OkStatus();
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", address, ": ", error.message()));
  }

  void Run() {
    asio::post(strand_, [this] { Accept(); });
    for (int i = 0; i < options_.num_threads; i++) {
      threads_.emplace_back([this] { loop_.run(); });
    }
  }

  void Stop() {
    if (stopped_) return;
    stopped_ = true;
    std::future<void> all_closed = all_closed_.get_future();
    asio::post(strand_, [this] { BeginStop(); });
    if (!threads_.empty()) {
      all_closed.wait_for(absl::ToChronoNanoseconds(options_.stop_timeout));
    }
    asio::post(strand_, [this] {
      for (const auto& session : sessions_) session->Abort();
    });
    // Its tasks post to the loop, so it ends first.
    decode_pool_.Stop();
    work_.reset();
    for (std::thread& thread : threads_) thread.join();
  }

  int port() const { return port_; }

 private:
  using Sessions = std::list<std::shared_ptr<HttpSession>>;

  // Below: on strand_.
  void Accept() {
    if (stopping_) return;
    acceptor_.async_accept(
        asio::make_strand(loop_), [this](const Error& error, tcp::socket socket) {
          if (stopping_ || error == asio::error::operation_aborted) return;
          if (error) {
            LOG(WARNING) << "event=accept_failed reason=\"" << error.message() << "\"";
            accept_timer_.expires_after(absl::ToChronoNanoseconds(kAcceptPause));
            accept_timer_.async_wait([this](const Error&) { Accept(); });
            return;
          }
          const auto num_serving = static_cast<int64_t>(sessions_.size()) - num_refusing_;
          const bool refused = num_serving >= options_.max_connections;
          if (!refused || num_refusing_ < kMaxRefusing) Open(std::move(socket), refused);
          Accept();
        });
  }

  void Open(tcp::socket socket, bool refused) {
    SetUpSocket(socket, options_);
    const auto position = sessions_.emplace(sessions_.end());
    *position = std::make_shared<HttpSession>(
        std::move(socket), options_, routes_, budget_, [this, position, refused] {
          asio::post(strand_, [this, position, refused] { Forget(position, refused); });
        });
    num_refusing_ += refused ? 1 : 0;
    (*position)->Start(
        refused ? std::make_optional(HttpErrorReply(
                      503, absl::StrCat("too many connections, limit ", options_.max_connections)))
                : std::nullopt);
  }

  void Forget(Sessions::iterator position, bool refused) {
    sessions_.erase(position);
    num_refusing_ -= refused ? 1 : 0;
    if (stopping_ && sessions_.empty()) all_closed_.set_value();
  }

  void BeginStop() {
    stopping_ = true;
    Error ignored;  // it is not used again
    acceptor_.close(ignored);
    accept_timer_.cancel();
    for (const auto& session : sessions_) session->Shutdown();
    if (sessions_.empty()) all_closed_.set_value();
  }

  const Options options_;
  const SystemClock system_clock_;
  BodyBudget budget_;
  DecodePool decode_pool_;
  RestRoutes routes_;
  asio::io_context loop_;
  asio::executor_work_guard<asio::io_context::executor_type> work_;
  asio::strand<asio::io_context::executor_type> strand_;  // of the members up to stopping_
  tcp::acceptor acceptor_;
  asio::steady_timer accept_timer_;
  Sessions sessions_;
  int64_t num_refusing_ = 0;  // of them
  bool stopping_ = false;
  // Of the thread that starts and stops.
  std::promise<void> all_closed_;
  std::vector<std::thread> threads_;
  bool stopped_ = false;
  int port_ = 0;
};

HttpGateway::HttpGateway(std::unique_ptr<Server> server) : server_(std::move(server)) {}

absl::StatusOr<std::unique_ptr<HttpGateway>> HttpGateway::Start(Options options, Intake& intake,
                                                                prometheus::Registry& registry) {
  RETURN_IF_ERROR(CheckOptions(options));
  auto server = std::make_unique<Server>(std::move(options), intake, registry);
  RETURN_IF_ERROR(server->Listen());
  server->Run();
  return std::unique_ptr<HttpGateway>(new HttpGateway(std::move(server)));
}

HttpGateway::~HttpGateway() { Stop(); }

int HttpGateway::port() const { return server_->port(); }

void HttpGateway::Stop() { server_->Stop(); }

}  // namespace longhaul::router::rest
