#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "worker/leader/engine.h"
#include "worker/leader/load_board.h"
#include "worker/leader/request_table.h"
#include "worker/leader/worker_codec.h"

namespace longhaul::worker::leader {

// The gRPC server that routers speak to: worker.proto, grpc.health.v1 (serving while ranks are up
// and the leader does not drain) and reflection. Knows the wire, decides nothing. Thread-safe.
class WorkerService {
 public:
  // `address` is host:port (port 0 = any free one) or unix:/path. The references are borrowed.
  // kUnavailable if the address cannot be bound.
  static absl::StatusOr<std::unique_ptr<WorkerService>> Start(const std::string& address,
                                                              const ServedModel& model,
                                                              Engine& engine,
                                                              RequestTable& requests,
                                                              LoadBoard& board, const Clock& clock);
  // Shutdown, if it was not called.
  ~WorkerService();

  // Takes no new call, lets open ones end for `grace`, then cancels them. Idempotent.
  void Shutdown(absl::Duration grace);

  // With the port resolved.
  const std::string& address() const { return address_; }

 private:
  class Impl;
  WorkerService(std::string address, std::unique_ptr<Impl> impl);
  const std::string address_;
  const std::unique_ptr<Impl> impl_;
};

}  // namespace longhaul::worker::leader
