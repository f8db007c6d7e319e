#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace longhaul::worker::comm {

// What the ranks of a group tell each other before they are connected: small values (some hundred
// bytes a rank) by key. Between processes the leader's control stream carries it.
//
// Knows nothing of what the values mean. Thread-safe.
class RendezvousStore {
 public:
  virtual ~RendezvousStore() = default;

  // Makes `value` known to all ranks. A key is set once, by one rank.
  // Errors: kUnavailable = the way to the others is gone.
  virtual absl::Status Set(const std::string& key, const std::string& value) = 0;

  // Waits until the key is set and returns its value.
  // Errors: kDeadlineExceeded, kUnavailable as above.
  virtual absl::StatusOr<std::string> Get(const std::string& key, absl::Time deadline) = 0;
};

}  // namespace longhaul::worker::comm
