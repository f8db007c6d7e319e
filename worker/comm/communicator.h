#pragma once

#include "absl/status/status.h"
#include "worker/tensor.h"

namespace longhaul::worker::comm {

// Point-to-point and collective transfer between the ranks of one worker group.
//
// Knows bytes and peers only: no model, no plan. Owned by the executor thread of its rank; not
// thread-safe but for Abort. Calls are enqueued on `stream` (CUDA) or complete on return (CPU); a
// Send returns when its buffer may be reused. Every rank must issue the same collectives in the
// same order. Buffers of matching calls have the same type and number of elements. Errors:
// kUnavailable = a peer is gone, timed out or aborted; the communicator is then poisoned and every
// later call returns the same. kInvalidArgument = a peer or buffer outside the contract.
class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;

  virtual absl::Status Send(TensorView src, int peer, Stream stream) = 0;
  virtual absl::Status Recv(TensorView dst, int peer, Stream stream) = 0;
  virtual absl::Status Broadcast(TensorView inout, int root, Stream stream) = 0;
  // kFloat32; between CUDA devices also kBFloat16, where each addition is rounded. The result has
  // the same bits on every rank.
  virtual absl::Status AllReduceSum(TensorView inout, Stream stream) = 0;

  // An asynchronous error, if there is one. Cheap.
  virtual absl::Status Poll() = 0;

  // Poisons the communicator and unblocks the peers, which see kUnavailable. Idempotent; may be
  // called from any thread.
  virtual void Abort() = 0;
};

}  // namespace longhaul::worker::comm
