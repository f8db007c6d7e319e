#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "worker/comm/communicator.h"
#include "worker/comm/rendezvous_store.h"

namespace longhaul::worker::comm {

// Ranks that have a CUDA device each, over NVLink, PCIe or the network by NCCL.
//
// Tensors lie in memory of `device`, which becomes the current one of the thread that makes the
// communicator and must be that of every later call; the Stream's handle is a cudaStream_t of it. A
// call returns when it is enqueued: what is enqueued before it on the stream comes before it, the
// buffer is the caller's again, and a received tensor is there, once the stream has come past it.
// Communicators that share a stream wait for each other, so all ranks use them in the same order.
// Those of one device with a stream each may have work at the same time, where none of it waits in
// a circle. Poll, like Abort, may be called from any thread.
//
// Three things differ from the other communicators:
// - NCCL does not time out. `timeout` bounds the enqueueing of a call (the first one between two
//   ranks connects them), nothing bounds what is enqueued: a stream whose peer does not come stands
//   still, and Poll is OK, until Abort of this rank. The leader's stall limit sees to that.
// - Abort unblocks this rank. Peers on the same host do not hear of it, nor of a process that died:
//   the leader, who does, aborts them all.
// - Tensors of matching calls that differ in size or type are undefined (a hang, or other bytes).
//
// A sum, of fp32 or bf16, has the same bits on every rank: rings, trees and switches compute each
// element in one place and copy it. In a group of two they are those of LocalCommunicator; in a
// larger one the order of the terms is NCCL's, and may change with an element's place and the
// tensor's size.
//
// NCCL reads its environment once a process; what matters here: NCCL_SOCKET_IFNAME names the
// network interface on which ranks meet, and NCCL_NVLS_ENABLE=0 turns sums in the switch (NVLink
// multicast) off, for which NCCL has no setting of a single communicator before 2.31. From 2.30 on
// NCCL_MULTI_RANK_GPU_ENABLE=1 lets ranks share a device, which is for tests.
struct NcclCommunicatorOptions {
  int rank = 0;
  int size = 1;
  int device = 0;                                      // of this process, by CUDA's number
  std::string group = "world";                         // distinguishes the groups of one store
  absl::Duration connect_timeout = absl::Seconds(60);  // until all ranks have come
  absl::Duration timeout = absl::Seconds(30);          // see above
};

// Takes its place in the group: every rank makes its own, at about the same time.
// `store` is needed until this returns. Errors: kInvalidArgument (a rank outside the group, a peer
// of another kind), kDeadlineExceeded (a peer that does not come), kUnavailable (NCCL's own, such
// as no usable device; no NCCL library on this host; those of `store`).
//
// A communicator is destroyed when all ranks' streams are through: it then counts as aborted.
absl::StatusOr<std::unique_ptr<Communicator>> MakeNcclCommunicator(
    const NcclCommunicatorOptions& options, RendezvousStore& store);

// Has NCCL's ranks meet on this network interface, unless NCCL_SOCKET_IFNAME names one. Sets that
// variable: call it before the process has threads that read its environment, and before the first
// communicator. Errors: kInternal.
absl::Status MeetOnInterface(const std::string& interface);

}  // namespace longhaul::worker::comm
