#pragma once

#include <map>
#include <string>

#include "absl/status/status.h"
#include "worker/leader/rank_link.h"

namespace longhaul::worker::leader {

// What the ranks of one incarnation have told each other so far, for those that come later.
// Bounded: a rank has two communicators and tells one entry for each. Thread-compatible.
class RendezvousRelay {
 public:
  static constexpr size_t kMaxEntriesPerRank = 2;
  static constexpr size_t kMaxKeyBytes = 256;
  static constexpr size_t kMaxValueBytes = 64 << 10;

  explicit RendezvousRelay(int32_t num_ranks)
      : max_entries_(kMaxEntriesPerRank * static_cast<size_t>(num_ranks)) {}

  // Errors, with nothing kept: kInvalidArgument (size), kAlreadyExists (the key is set),
  // kResourceExhausted.
  absl::Status Add(const RendezvousEntry& entry);
  // By key.
  const std::map<std::string, std::string>& entries() const { return entries_; }

 private:
  size_t max_entries_;
  std::map<std::string, std::string> entries_;
};

}  // namespace longhaul::worker::leader
