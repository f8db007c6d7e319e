#pragma once

#include <grpcpp/channel.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace longhaul::router {

// One gRPC channel a configured leader, shared by its Watch and its Execute streams, so that losing
// the connection shows in both. Immutable after construction and thread-safe.
class WorkerChannels {
 public:
  // `host:port`, a DNS name, or `unix:/path`. Nothing is dialled before the first call.
  explicit WorkerChannels(const std::vector<std::string>& addresses);

  // Precondition: `address` was given to the constructor (CHECK).
  std::shared_ptr<grpc::Channel> Get(const std::string& address) const;

 private:
  std::map<std::string, std::shared_ptr<grpc::Channel>> channels_;
};

}  // namespace longhaul::router
