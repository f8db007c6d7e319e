#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "worker/comm/communicator.h"
#include "worker/comm/rendezvous_store.h"

namespace longhaul::worker::comm {

// Ranks that are processes, on one host or several, over TCP by Gloo.
//
// As with LocalCommunicator, a Send waits until its peer has the bytes, so that both sides hear of
// sizes or types that differ (kInvalidArgument, and the communicator goes on) and nothing that was
// sent is lost when a rank leaves. A lost process is noticed at once by whoever waits for it, by
// others at their next call or Poll; one that hangs, or a host that vanished, by `timeout`.
// Different kinds of call that meet (a Send and an AllReduceSum) are kInvalidArgument and poison.
//
// Sums are taken in rank order for every element, whatever its place and the size of the tensor:
// the bits are those of LocalCommunicator on every rank, and a row's sum does not depend on the
// rows beside it. Gloo's own algorithms (run on 2 to 4 ranks) do not give that: ring and
// halving-doubling have the same bits on all ranks, but the ring's order changes with an element's
// place in the tensor and halving-doubling's is not the oracle's; AllreduceRing's bits differ
// between ranks.
//
// The process must ignore SIGPIPE. The connections are neither authenticated nor encrypted: bind to
// a network that only the group reaches.
struct GlooCommunicatorOptions {
  int rank = 0;
  int size = 1;
  std::string group = "world";     // distinguishes the communicators of one store
  std::string host = "127.0.0.1";  // name or address (IPv4, IPv6) of this machine to bind to
  std::string interface;           // network interface to bind to; if set, `host` is not used
  absl::Duration connect_timeout = absl::Seconds(30);  // until all ranks have come
  absl::Duration timeout = absl::Seconds(30);          // longest duration of a call
};

// Takes its place in the group: every rank makes its own, at about the same time. `store` is needed
// until this returns. Errors: kInvalidArgument (host or interface, a rank outside the group, a peer
// of another version), kFailedPrecondition (SIGPIPE), kDeadlineExceeded or kUnavailable (a peer
// that does not come).
absl::StatusOr<std::unique_ptr<Communicator>> MakeGlooCommunicator(
    const GlooCommunicatorOptions& options, RendezvousStore& store);

}  // namespace longhaul::worker::comm
