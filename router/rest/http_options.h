#pragma once

#include <cstdint>
#include <string>

#include "absl/time/time.h"
#include "common/clock.h"
#include "router/rest/cors.h"

namespace longhaul::router::rest {

// Limits of the REST side. Every timeout is of time without progress unless it says otherwise.
struct HttpOptions {
  std::string host = "127.0.0.1";
  int port = 8000;             // 0 = any free one
  int num_threads = 2;         // sockets; none of them ever reads a large JSON
  int num_decode_threads = 2;  // JSON, gzip, /tokenize
  int decode_queue = 64;       // bodies that wait for a decode thread; more are refused with 429

  int64_t max_connections = 1024;                   // more are answered 503 and closed
  int64_t max_header_bytes = 32 << 10;              // 431
  int64_t max_body_bytes = 64 << 20;                // 413; also after decompression
  int64_t max_total_body_bytes = int64_t{1} << 30;  // of all requests being read or decoded; 503
  int64_t max_pending_output_bytes = 64 << 20;      // a connection; its request is cancelled beyond

  absl::Duration idle_timeout = absl::Seconds(75);    // keep-alive without a request
  absl::Duration header_timeout = absl::Seconds(30);  // first to last byte of the head
  absl::Duration body_timeout = absl::Seconds(30);    // for every 16 KiB of the body
  absl::Duration write_timeout = absl::Seconds(30);   // a reader that accepts nothing
  absl::Duration linger_timeout =
      absl::Seconds(2);                            // for the peer to close after the last response
  absl::Duration stop_timeout = absl::Seconds(2);  // total, for open responses to end on Stop

  absl::Duration heartbeat = absl::Seconds(10);  // silence in a stream before a comment is sent
  // A stream's status line leaves with the first event or after this, whichever is first: a prompt
  // that is refused at once (too long, queue full) still gets its own status code.
  absl::Duration stream_head_grace = absl::Seconds(1);

  CorsPolicy cors = {};  // which web pages may use the API

  const Clock* clock =
      nullptr;  // `created` and deadlines; null = the system's. Outlives the gateway
};

}  // namespace longhaul::router::rest
