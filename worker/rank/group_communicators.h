#pragma once

#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/mutex.h"
#include "worker/comm/communicator.h"
#include "worker/comm/rendezvous_store.h"
#include "worker/group_shape.h"
#include "worker/rank/metered_communicator.h"

namespace longhaul::worker::rank {

// A rank's communicators: with the shards of its stage, and with the ranks of its own shard in all
// stages. A group of one has a local one, which nobody talks to.
//
// Owned by the executor thread; Abort is thread-safe.
class GroupCommunicators {
 public:
  struct Options {
    std::string host;       // of this machine to bind to, or
    std::string interface;  // a network interface, if not empty
  };

  // `clock` is borrowed.
  GroupCommunicators(Options options, const Clock& clock)
      : options_(std::move(options)), clock_(clock) {}

  // Takes the place of `rank` in the group, once; waits for the others to come. Errors: those of
  // MakeGlooCommunicator; kUnavailable after Abort.
  absl::Status Connect(const GroupShape& shape, int32_t rank, comm::RendezvousStore& store)
      EXCLUDES(mutex_);

  // After Connect. tensor(): one rank a shard, in order; pipeline(): one a stage.
  comm::Communicator& tensor() { return *tensor_; }
  comm::Communicator& pipeline() { return *pipeline_; }
  // How long pipeline() waited for other stages so far.
  absl::Duration waited() const { return pipeline_->waited(); }

  // Whether a peer is lost. Cheap.
  absl::Status Poll();

  // Ends what the executor waits for, and what its peers wait for. Idempotent.
  void Abort() EXCLUDES(mutex_);

 private:
  const Options options_;
  const Clock& clock_;
  // Written by Connect, with the lock because Abort may come meanwhile.
  std::unique_ptr<comm::Communicator> tensor_;
  std::unique_ptr<MeteredCommunicator> pipeline_;
  Mutex mutex_;
  bool aborted_ GUARDED_BY(mutex_) = false;
  comm::Communicator* abortable_[2] GUARDED_BY(mutex_) = {};  // the two above, once they exist
};

}  // namespace longhaul::worker::rank
