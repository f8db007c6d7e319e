#pragma once

#include <boost/asio/steady_timer.hpp>
#include <cstdint>
#include <memory>
#include <string_view>

#include "absl/time/time.h"
#include "router/rest/output_stream.h"

namespace longhaul::router::rest {

// Server-sent events on one connection: framing (HTTP/1.1 chunks), and a comment line whenever
// nothing was sent for `heartbeat`, so that no proxy on the way takes a long prefill for a dead
// connection. The heartbeat comes from a timer of its own, whatever the request does. Owned by the
// connection's strand.
class SseWriter : public std::enable_shared_from_this<SseWriter> {
 public:
  enum class Framing { kChunked, kUntilClose };

  SseWriter(std::shared_ptr<OutputStream> output, boost::asio::any_io_executor strand,
            Framing framing, absl::Duration heartbeat);

  // Sends the response's head at once and starts the heartbeat.
  void Start(std::string_view head);
  // One event; `data` is one line (CHECK).
  void Event(std::string_view data);
  // The end of the body. Nothing may follow.
  void Finish();
  // No heartbeat follows. Idempotent.
  void Stop();

 private:
  void Send(std::string_view text);
  void ArmHeartbeat();

  const std::shared_ptr<OutputStream> output_;
  const Framing framing_;
  const absl::Duration heartbeat_;
  boost::asio::steady_timer timer_;
  uint64_t num_sent_ = 0;  // a heartbeat is due when this stood still for one period
  bool stopped_ = false;
};

}  // namespace longhaul::router::rest
