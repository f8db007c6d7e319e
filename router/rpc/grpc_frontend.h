#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "router/intake.h"

namespace longhaul::router::rpc {

struct GrpcFrontendOptions {
  std::string host = "127.0.0.1";
  int port = 9000;                          // 0 = any free one
  int64_t max_message_bytes = 64 << 20;     // of a request
  int64_t memory_bytes = int64_t{1} << 30;  // quota of gRPC's buffers, all connections together
  int max_concurrent_streams = 1024;        // of one connection
  absl::Duration slow_reader = absl::Seconds(30);      // accepts nothing for so long: cancelled
  absl::Duration max_connection_age = absl::Hours(1);  // then clients dial anew, streams go on
  // Clients that ping this often or less are welcome, also without calls...
  absl::Duration min_ping_interval = absl::Seconds(10);
  // ... and the server pings too, so that a client whose host vanished is noticed.
  absl::Duration keepalive = absl::Seconds(30);
  absl::Duration keepalive_timeout = absl::Seconds(10);
  bool reflection = true;
};

// longhaul.v1.Inference over gRPC, with grpc.health.v1 and reflection.
//
// Calls become requests of the Intake; the deadline of a call is the request's, its cancellation
// cancels it. Errors carry an ErrorDetail in the trailer "longhaul-error-bin". Thread-safe.
class GrpcFrontend {
 public:
  // Listens from here on. `intake` and `clock` are borrowed and outlive this.
  // kUnavailable if the address cannot be bound (names it).
  static absl::StatusOr<std::unique_ptr<GrpcFrontend>> Start(const GrpcFrontendOptions& options,
                                                             Intake& intake, const Clock& clock);
  ~GrpcFrontend();  // Stop, at once
  GrpcFrontend(const GrpcFrontend&) = delete;
  GrpcFrontend& operator=(const GrpcFrontend&) = delete;

  int port() const;

  // What health says of longhaul.v1.Inference; the server as a whole ("") serves until Stop.
  void SetServing(bool serving);

  // Health says NOT_SERVING of everything from here on.
  void BeginShutdown();

  // Takes no call, gives running ones `grace` to end, then cancels them. Idempotent.
  void Stop(absl::Duration grace);

 private:
  class Impl;
  explicit GrpcFrontend(std::unique_ptr<Impl> impl);
  const std::unique_ptr<Impl> impl_;
};

}  // namespace longhaul::router::rpc
