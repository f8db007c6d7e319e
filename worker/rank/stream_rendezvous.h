#pragma once

#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/mutex.h"
#include "worker/comm/rendezvous_store.h"
#include "worker/rank/control_stream.h"

namespace longhaul::worker::rank {

// The rendezvous of a group's ranks by way of their leader: what one sets, the leader relays to
// all. Thread-safe.
class StreamRendezvous final : public comm::RendezvousStore {
 public:
  // More entries than any group has; the leader bounds them earlier and by their size, too.
  static constexpr size_t kMaxEntries = 1024;

  // `stream` outlives this.
  explicit StreamRendezvous(ControlStream& stream) : stream_(stream) {}

  absl::Status Set(const std::string& key, const std::string& value) override EXCLUDES(mutex_);
  absl::StatusOr<std::string> Get(const std::string& key, absl::Time deadline) override
      EXCLUDES(mutex_);

  // An entry came. kResourceExhausted beyond kMaxEntries; of a key that is there the first counts.
  absl::Status Receive(std::string key, std::string value) EXCLUDES(mutex_);
  // The way to the others is gone: every Get and Set, waiting or to come, is kUnavailable.
  void Abort() EXCLUDES(mutex_);

 private:
  ControlStream& stream_;
  Mutex mutex_;
  CondVar changed_;
  bool aborted_ GUARDED_BY(mutex_) = false;
  std::map<std::string, std::string> entries_ GUARDED_BY(mutex_);
};

}  // namespace longhaul::worker::rank
