#pragma once

#include <stop_token>
#include <string>

#include "absl/status/status.h"
#include "worker/rank/rank_config.h"

namespace longhaul::worker::rank {

// A whole rank: checks the model, registers with the leader, loads its part, executes plans until
// the leader ends the stream or `stop` is requested, and takes everything down again. A rank never
// outlives its leader. Blocks; idle it waits on queues (one heartbeat a second). `secret` is the
// group's. The request to stop must not come from a signal handler itself (it takes locks): wait
// for the signal on a thread.
//
// Threads: the caller's reads the stream; the executor thread loads and computes (with its pool);
// one thread writes heartbeats and results. Prints one line on standard output when loaded: ready
// role=rank rank=N metrics=HOST:PORT (or none). Returns OK after `stop` or when the leader closed
// the stream in order; otherwise why it ended: kUnavailable (no leader), kUnauthenticated,
// kFailedPrecondition (refused), kAborted, kInvalidArgument or kNotFound (model or configuration,
// before anything is served), kInternal.
absl::Status RunRank(const RankConfig& config, const std::string& secret, std::stop_token stop);

}  // namespace longhaul::worker::rank
