#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <functional>

#include "absl/status/status.h"
#include "cli/local_cluster.h"
#include "cli/signal_watch.h"

namespace longhaul::cli {

// The event loop of a client of a local cluster: what is started on its context, and beside it a
// watch over signals and the cluster's programs. Owned by the main thread.
class ClusterLoop {
 public:
  // What the watch sees, once at most: kCancelled (a signal asks us to stop), kUnavailable (a
  // program of the cluster ended).
  using OnTrouble = std::function<void(const absl::Status&)>;

  // Both outlive it.
  ClusterLoop(const LocalCluster& cluster, SignalWatch& signals);

  boost::asio::io_context& context() { return context_; }

  // Runs until Stop.
  void Run(OnTrouble on_trouble);
  void Stop() { context_.stop(); }

 private:
  void Watch();

  const LocalCluster& cluster_;
  SignalWatch& signals_;
  OnTrouble on_trouble_;
  boost::asio::io_context context_;
  boost::asio::posix::stream_descriptor signal_fd_;  // a duplicate: it is closed with this
};

}  // namespace longhaul::cli
