#include "worker/leader/rendezvous_relay.h"

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace longhaul::worker::leader {

absl::Status RendezvousRelay::Add(const RendezvousEntry& entry) {
  if (entry.key.empty() || entry.key.size() > kMaxKeyBytes || entry.value.size() > kMaxValueBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("rendezvous key of ", entry.key.size(), " bytes with ", entry.value.size(),
                     " bytes, limits 1 to ", kMaxKeyBytes, " and ", kMaxValueBytes));
  }
  if (entries_.contains(entry.key)) {
    return absl::AlreadyExistsError(
        absl::StrCat("rendezvous key \"", absl::CHexEscape(entry.key), "\" is set"));
  }
  if (entries_.size() >= max_entries_) {
    return absl::ResourceExhaustedError(absl::StrCat("the group told ", entries_.size() + 1,
                                                     " rendezvous entries, limit ", max_entries_));
  }
  entries_.emplace(entry.key, entry.value);
  return absl::OkStatus();
}

}  // namespace longhaul::worker::leader
