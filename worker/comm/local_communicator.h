#pragma once

#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "worker/comm/communicator.h"

namespace longhaul::worker::comm {

// Ranks that are threads of one process: the oracle of the other communicators, and the
// communicator of a group of one.
//
// A Send waits until its peer has copied the bytes (nothing is buffered); sums are taken in rank
// order. Every wait ends with kUnavailable after `timeout`. A rank whose endpoint is destroyed is
// gone for its peers.
struct LocalCommunicatorOptions {
  absl::Duration timeout = absl::Seconds(30);
};

// The endpoints of ranks 0 .. size-1 of a new group; size >= 1.
std::vector<std::unique_ptr<Communicator>> MakeLocalGroup(int size,
                                                          LocalCommunicatorOptions options = {});

}  // namespace longhaul::worker::comm
