#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/mutex.h"
#include "worker/comm/rendezvous_store.h"

namespace gloo::transport {
class Context;
class Device;
class UnboundBuffer;
}  // namespace gloo::transport

namespace longhaul::worker::comm {

// The connections of one rank to all other ranks of its group: messages of bytes over TCP, by Gloo.
//
// Knows no tensors and no collectives. The only code that touches Gloo, whose exceptions end here.
// Owned by one thread but for Poll and Abort, which any thread may call. Gloo's own thread moves
// the bytes; one thread a peer waits for its connection to break. Every error of Wait and Poll is
// kUnavailable and poisons the mesh: all connections are closed, so that the peers hear of it, and
// every later call returns the first error.
//
// Connections are neither authenticated nor encrypted, and Gloo ends the process on bytes that are
// not its own: bind to a network that only the group reaches.
class GlooMesh {
 public:
  struct Options {
    int rank = 0;
    int size = 1;
    std::string group;      // prefix of the keys in the store
    std::string interface;  // name of the interface to bind to, or empty:
    std::string host;       // name or address of this machine to bind to
    absl::Duration connect_timeout;
    absl::Duration timeout;  // longest wait that callers ask for; told in errors
  };

  // Messages of one channel between two ranks keep their order; channels do not wait for another.
  enum class Channel : uint64_t { kWatch = 1, kHeader, kVerdict, kData, kPart, kSum };

  // A message on its way. Its memory is borrowed until Wait returned OK or this was destroyed,
  // which waits until nobody touches it any more. Must not outlive the mesh.
  class Transfer {
   public:
    Transfer();
    ~Transfer();
    Transfer(Transfer&& other) noexcept;
    Transfer& operator=(Transfer&& other) noexcept;

   private:
    friend class GlooMesh;
    std::unique_ptr<gloo::transport::UnboundBuffer> buffer_;  // null: not posted
    std::string why_not_posted_;
    int peer_ = -1;
    bool receives_ = false;
  };

  // Connects to all peers, whose addresses come by `store`. Waits at most connect_timeout for the
  // addresses and as long again for each peer's connection. Errors: kInvalidArgument (host or
  // interface that cannot be bound, a peer of another kind), kFailedPrecondition (the process does
  // not ignore SIGPIPE, which Gloo raises when a peer is lost), kDeadlineExceeded or kUnavailable.
  static absl::StatusOr<std::unique_ptr<GlooMesh>> Connect(const Options& options,
                                                           RendezvousStore& store);

  ~GlooMesh();
  GlooMesh(const GlooMesh&) = delete;
  GlooMesh& operator=(const GlooMesh&) = delete;

  int rank() const { return options_.rank; }
  int size() const { return options_.size; }

  // Begins to send or receive; bytes >= 1. The receiver's `bytes` must not be less than the
  // sender's. A message leaves when its receiver is posted.
  Transfer PostSend(int peer, Channel channel, const void* data, int64_t bytes);
  Transfer PostRecv(int peer, Channel channel, void* data, int64_t bytes);

  // Waits until the message was handed to the network, or received.
  absl::Status Wait(Transfer& transfer, absl::Time deadline) EXCLUDES(mutex_);

  // The error of the mesh, or that a peer is lost. Cheap.
  absl::Status Poll() EXCLUDES(mutex_);

  // Ends waits here, closes all connections. Bounded: some 10 ms a peer. Idempotent.
  void Abort(const std::string& why) EXCLUDES(mutex_);

 private:
  enum class Outcome { kDone, kInterrupted, kFailed };
  struct Watch;

  GlooMesh(Options options, std::shared_ptr<gloo::transport::Device> device,
           std::shared_ptr<gloo::transport::Context> context);

  absl::Status ConnectPeers(RendezvousStore& store);
  void WatchPeers();
  Transfer Post(int peer, Channel channel, void* data, int64_t bytes, bool receives);
  Outcome WaitOnce(Transfer& transfer, absl::Duration timeout, std::string& why) const;
  void Interrupt(Transfer& transfer) const;
  void PeerLost(int peer, const std::string& why) EXCLUDES(mutex_);
  absl::Status Poison(const std::string& why) EXCLUDES(mutex_);

  const Options options_;
  // Constant once connected; null in a group of one.
  std::shared_ptr<gloo::transport::Device> device_;
  std::shared_ptr<gloo::transport::Context> context_;
  std::vector<std::unique_ptr<Watch>> watches_;  // one a peer

  mutable Mutex mutex_;
  absl::Status status_ GUARDED_BY(mutex_);
  std::vector<std::string> lost_ GUARDED_BY(mutex_);  // [size] why, empty while connected
  Transfer* waiting_ GUARDED_BY(mutex_) = nullptr;    // what the owner waits for
};

}  // namespace longhaul::worker::comm
