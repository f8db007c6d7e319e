#include "worker/rank/stream_rendezvous.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace longhaul::worker::rank {
namespace {

absl::Status Gone() { return absl::UnavailableError("the control stream is over"); }

}  // namespace

absl::Status StreamRendezvous::Set(const std::string& key, const std::string& value) {
  {
    MutexLock lock(mutex_);
    if (aborted_) return Gone();
  }
  const absl::Status sent = stream_.SendRendezvous(key, value);
  return absl::IsCancelled(sent) ? Gone() : sent;
}

absl::StatusOr<std::string> StreamRendezvous::Get(const std::string& key, absl::Time deadline) {
  MutexLock lock(mutex_);
  while (true) {
    if (aborted_) return Gone();
    if (const auto found = entries_.find(key); found != entries_.end()) return found->second;
    if (absl::Now() >= deadline) {
      return absl::DeadlineExceededError(
          absl::StrCat("no rank of the group told \"", key, "\" in time"));
    }
    changed_.WaitUntil(mutex_, deadline);
  }
}

absl::Status StreamRendezvous::Receive(std::string key, std::string value) {
  MutexLock lock(mutex_);
  if (entries_.size() >= kMaxEntries) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the leader relayed more than ", kMaxEntries, " rendezvous entries"));
  }
  entries_.emplace(std::move(key), std::move(value));
  changed_.SignalAll();
  return absl::OkStatus();
}

void StreamRendezvous::Abort() {
  MutexLock lock(mutex_);
  aborted_ = true;
  changed_.SignalAll();
}

}  // namespace longhaul::worker::rank
