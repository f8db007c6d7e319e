#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "worker/leader/rank_link.h"

namespace longhaul::worker::leader {

// Serves rank.proto: turns each rank's control stream into a RankLink and RankEvents. Knows the
// wire, not the group: who may register is decided by the handler. Thread-safe.
class ControlServer {
 public:
  // `address` is host:port (port 0 = any free one) or unix:/path. kUnavailable if it cannot be
  // bound.
  static absl::StatusOr<std::unique_ptr<ControlServer>> Start(const std::string& address,
                                                              RankEventHandler handler);
  // Ends all streams; the handler is not called afterwards.
  ~ControlServer();

  // What ranks dial: the port resolved.
  const std::string& address() const { return address_; }

 private:
  class Impl;
  ControlServer(std::string address, std::unique_ptr<Impl> impl);
  const std::string address_;
  const std::unique_ptr<Impl> impl_;
};

}  // namespace longhaul::worker::leader
