#pragma once

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace longhaul::router::rest {

// Everything that leaves one connection, in order. Writes return at once; what the peer does not
// accept yet waits in memory. Owned by the connection's strand.
//
// Fails once, after which nothing is written: kDeadlineExceeded if the peer accepts no byte for
// `write_timeout`, kResourceExhausted if more than `max_pending_bytes` wait, kUnavailable if the
// connection breaks.
class OutputStream : public std::enable_shared_from_this<OutputStream> {
 public:
  struct Callbacks {
    std::function<void()> drained;  // all that was written has been accepted
    std::function<void(const absl::Status&)> failed;
  };

  // Keeps the socket alive as long as an operation on it runs.
  OutputStream(std::shared_ptr<boost::asio::ip::tcp::socket> socket, absl::Duration write_timeout,
               int64_t max_pending_bytes, Callbacks callbacks);

  void Write(std::string_view bytes);

  // True if nothing waits.
  bool idle() const { return !writing_; }

  // No callback follows. Idempotent.
  void Stop();

 private:
  void WriteSome();
  void Fail(const absl::Status& status);

  const std::shared_ptr<boost::asio::ip::tcp::socket> socket_;
  const absl::Duration write_timeout_;
  const int64_t max_pending_bytes_;
  Callbacks callbacks_;
  boost::asio::steady_timer stall_timer_;
  uint64_t stall_serial_ = 0;  // a timer of an earlier write means nothing
  std::string in_flight_;      // untouched while a write runs
  size_t in_flight_begin_ = 0;
  std::string pending_;
  bool writing_ = false;
  bool stopped_ = false;
};

}  // namespace longhaul::router::rest
