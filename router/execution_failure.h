#pragma once

#include <cstdint>

#include "absl/status/status.h"

namespace longhaul::router {

// How an execution stood when it failed.
struct FailedExecution {
  absl::Status status;           // not OK: of the stream, or the leader's result
  bool admitted = false;         // by the leader
  int32_t tokens_delivered = 0;  // to the client; progress is not a token
  int32_t retries = 0;           // used before
};

enum class FailureAction {
  kElsewhere,  // the group was full, nothing was lost: another group, or this one later
  kRetry,      // the group was lost before any token: once more, with the same id and seed
  kFail,       // tell the client
};

// The failure map of docs/architecture.md. Pure.
FailureAction ActionAfter(const FailedExecution& failed);

// What the client is told: only codes that mean something to it.
absl::Status StatusForClient(const FailedExecution& failed);

}  // namespace longhaul::router
