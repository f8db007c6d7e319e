// One HTTP connection fed with foreign bytes, cut anywhere: it answers each request it can read
// with a response that is well-formed to the last byte (events of a stream included), closes when
// the client does, and leaves nothing behind. In memory and on one thread, so that runs repeat
// exactly.
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/strand.hpp>
#include <future>
#include <memory>
#include <set>
#include <string>
#include <string_view>

#include "common/clock.h"
#include "common/logging.h"
#include "router/rest/body_budget.h"
#include "router/rest/decode_pool.h"
#include "router/rest/http_session.h"
#include "router/rest/rest_routes.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/fuzz/http_answers.h"
#include "tests/fuzz/instant_intake.h"

namespace longhaul::router::rest {
namespace {

namespace asio = boost::asio;

// What outlives the connections. Limits are small, so that small inputs reach them.
struct House {
  explicit House(bool hasty) {
    options.max_header_bytes = 2048;
    options.max_body_bytes = 4096;
    options.max_total_body_bytes = 6000;
    options.stream_head_grace = absl::ZeroDuration();
    options.linger_timeout = absl::ZeroDuration();
    options.cors = CorsPolicy::For({"http://a", "http://b"}).value();
    if (!hasty) return;
    options.header_timeout = options.body_timeout = absl::ZeroDuration();
    options.max_pending_output_bytes = 600;
  }
  HttpOptions options;
  SystemClock clock;
  prometheus::Registry registry;
  fuzz::InstantIntake intake;
  BodyBudget budget{6000};
  DecodePool decode_pool{1, 64};
  RestRoutes routes{{options, intake, decode_pool, clock}, registry};
};

House& TheHouse(bool hasty) {
  static House patient_house(false);
  static House hasty_house(true);
  return hasty ? hasty_house : patient_house;
}

class Connection {
 public:
  explicit Connection(House& house) : house_(house), work_(loop_.get_executor()) {
    int ends[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0) << errno;
    client_ = ends[0];
    CHECK(fcntl(client_, F_SETFL, O_NONBLOCK) == 0) << errno;
    // Asio asks nothing of a socket that only TCP has.
    asio::ip::tcp::socket socket(asio::make_strand(loop_));
    socket.assign(asio::ip::tcp::v4(), ends[1]);
    session_ = std::make_shared<HttpSession>(std::move(socket), house.options, house.routes,
                                             house.budget, [this] { closed_ = true; });
    session_->Start();
    Settle();
  }
  ~Connection() {
    Close();
    session_->Abort();
    Settle();
    CHECK(closed_);
    session_ = nullptr;
    Settle();
    CHECK(house_.intake.num_running() == 0) << "nobody waits for a request that still runs";
    CHECK(BodyBudget::Lease(house_.budget).GrowTo(6000)) << "a share was not given back";
  }

  void Send(std::string_view bytes) {
    // A server that has closed takes no more.
    while (!bytes.empty()) {
      const ssize_t sent = send(client_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return;
      bytes.remove_prefix(static_cast<size_t>(sent));
      Settle();
    }
  }
  void HalfClose() {
    shutdown(client_, SHUT_WR);
    Settle();
  }
  void Close() {
    if (client_ < 0) return;
    close(std::exchange(client_, -1));
    Settle();
  }
  void Shutdown() {
    session_->Shutdown();
    Settle();
  }

  bool closed() const { return closed_; }
  // All that came.
  const std::string& received() const { return received_; }

 private:
  // Until nothing more happens by itself.
  void Settle() {
    for (int round = 0;; ++round) {
      CHECK(round < 10000) << "the session never comes to rest";
      size_t num_events = loop_.poll();
      // What the decode pool had to do is done when this has its turn.
      std::promise<void> idle;
      CHECK(house_.decode_pool.Post([&idle] { idle.set_value(); }).ok());
      idle.get_future().wait();
      num_events += loop_.poll();
      if (!Receive() && num_events == 0) return;
    }
  }
  bool Receive() {
    if (client_ < 0) return false;
    char bytes[4096];
    const ssize_t count = recv(client_, bytes, sizeof(bytes), 0);
    if (count > 0) received_.append(bytes, static_cast<size_t>(count));
    return count > 0;
  }

  House& house_;
  asio::io_context loop_{1};
  asio::executor_work_guard<asio::io_context::executor_type> work_;
  int client_ = -1;
  std::shared_ptr<HttpSession> session_;
  bool closed_ = false;
  std::string received_;
};

enum class End { kShutdown, kHalfClose, kClose, kHalfCloseAtOnce };

// `before` is answered before `bytes` come. `cuts` seeds the sizes of their pieces; 0: one piece.
void Check(House& house, std::string_view before, std::string_view bytes, uint32_t cuts, End end) {
  Connection connection(house);
  connection.Send(before);
  while (!bytes.empty()) {
    cuts = cuts * 1103515245 + (cuts != 0 ? 12345 : 0);
    constexpr size_t kSizes[] = {1, 1, 2, 3, 7, 16, 64, 300};
    const size_t size = cuts == 0 ? bytes.size() : kSizes[(cuts >> 16) % 8];
    connection.Send(bytes.substr(0, size));
    bytes.remove_prefix(std::min(size, bytes.size()));
  }
  switch (end) {
    case End::kShutdown:
      connection.Shutdown();
      break;
    case End::kHalfClose:
    case End::kHalfCloseAtOnce:
      connection.HalfClose();
      break;
    case End::kClose:
      connection.Close();
      break;
  }
  CHECK(connection.closed()) << "the session outlives its client";
  // A client that is gone is owed nothing; one that was told of the end has every byte.
  const bool may_be_cut = end != End::kShutdown || house.options.max_pending_output_bytes == 600;
  fuzz::CheckHttpAnswers(connection.received(), may_be_cut);
}

}  // namespace
}  // namespace longhaul::router::rest

// Byte 0: bit 0 timeouts that are over at once and little room for output, bit 1 a framed request,
// bits 2 and 3 how it ends, bit 4 a sound request before it. Byte 1: how to cut. Then the bytes of
// the connection; or, framed, a line with method and path, a line with a header, and the body.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace longhaul::router::rest;
  static const bool quiet = [] {
    longhaul::SetMinLogSeverity(longhaul::LogSeverity::kFatal);
    return true;
  }();
  CHECK(quiet);
  longhaul::fuzz::FuzzInput input(data, size);
  const uint8_t flags = input.Byte();
  const uint8_t cuts = input.Byte();
  std::string bytes;
  const char* before = (flags & 16) != 0 ? "GET /health HTTP/1.1\r\nHost: a\r\n\r\n" : "";
  if ((flags & 2) != 0) {
    const std::string_view target = input.Until('\n');
    const std::string_view header = input.Until('\n');
    const std::string_view body = input.Rest();
    bytes += std::string(target) +
             " HTTP/1.1\r\nHost: a\r\nContent-Length: " + std::to_string(body.size()) + "\r\n";
    if (!header.empty()) bytes += std::string(header) + "\r\n";
    bytes += "\r\n";
    bytes += body;
  } else {
    bytes += input.Rest();
  }
  Check(TheHouse((flags & 1) != 0), before, bytes, cuts, static_cast<End>(flags >> 2 & 3));
  return 0;
}
