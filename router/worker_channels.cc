#include "router/worker_channels.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include "common/logging.h"

namespace longhaul::router {
namespace {

// A leader that vanished without a FIN (its host lost power) is noticed within the sum of the two.
// Leaders accept pings this often: their server allows one every 10 s.
constexpr int kKeepaliveMs = 20'000;
constexpr int kKeepaliveTimeoutMs = 10'000;
constexpr int kMinReconnectMs = 100;
constexpr int kMaxReconnectMs = 2'000;

grpc::ChannelArguments Arguments() {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, kMinReconnectMs);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kMaxReconnectMs);
  // Retries are the dispatcher's decision: only it knows whether a token was delivered.
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  // Two routers in one process (tests) must not share a connection.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return arguments;
}

}  // namespace

WorkerChannels::WorkerChannels(const std::vector<std::string>& addresses) {
  for (const std::string& address : addresses) {
    channels_[address] =
        grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), Arguments());
  }
}

std::shared_ptr<grpc::Channel> WorkerChannels::Get(const std::string& address) const {
  const auto channel = channels_.find(address);
  CHECK(channel != channels_.end()) << "no channel to " << address;
  return channel->second;
}

}  // namespace longhaul::router
