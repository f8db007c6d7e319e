#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/mutex.h"
#include "worker/comm/communicator.h"
#include "worker/comm/rendezvous_store.h"
#include "worker/group_shape.h"

namespace longhaul::worker::rank {

// A rank's communicators: with the shards of its stage, and with the ranks of its own shard in all
// stages. By NCCL between CUDA devices, else by Gloo. A group of one has a local one, which nobody
// talks to.
//
// Owned by the executor thread; Abort is thread-safe.
class GroupCommunicators {
 public:
  struct Options {
    std::string host;                // of this machine to bind to, or
    std::string interface;           // a network interface, if not empty
    std::optional<int> cuda_device;  // in whose memory tensors lie; none = the host's
  };

  // Once a process, before it has threads that read its environment: how its CUDA ranks will meet,
  // if they do. Errors: kInvalidArgument (host or interface), kUnimplemented (no NCCL), kInternal.
  static absl::Status PrepareCuda(const std::string& host, const std::string& interface);

  explicit GroupCommunicators(Options options) : options_(std::move(options)) {}

  // Takes the place of `rank` in the group, once; waits for the others to come. Errors: those of
  // MakeGlooCommunicator or MakeNcclCommunicator; kUnimplemented in a build without NCCL that needs
  // it; kUnavailable after Abort.
  absl::Status Connect(const GroupShape& shape, int32_t rank, comm::RendezvousStore& store)
      EXCLUDES(mutex_);

  // After Connect. tensor(): one rank a shard, in order; pipeline(): one a stage.
  comm::Communicator& tensor() { return *tensor_; }
  comm::Communicator& pipeline() { return *pipeline_; }

  // Whether a peer is lost. Cheap.
  absl::Status Poll();

  // Ends what the executor waits for, and what its peers wait for; of a communicator that is being
  // made, within the time that connecting may take. Idempotent.
  void Abort() EXCLUDES(mutex_);

 private:
  // Of several ranks, of which this is number `rank`.
  absl::StatusOr<std::unique_ptr<comm::Communicator>> Join(int rank, int size,
                                                           const std::string& group,
                                                           comm::RendezvousStore& store) const;

  // Lets Abort end it. kUnavailable if that came before.
  absl::Status Publish(size_t index, comm::Communicator* communicator) EXCLUDES(mutex_);

  const Options options_;
  // Written by Connect, with the lock because Abort may come meanwhile.
  std::unique_ptr<comm::Communicator> tensor_;
  std::unique_ptr<comm::Communicator> pipeline_;
  Mutex mutex_;
  bool aborted_ GUARDED_BY(mutex_) = false;
  comm::Communicator* abortable_[2] GUARDED_BY(mutex_) = {};  // the two above, once they exist
};

}  // namespace longhaul::worker::rank
