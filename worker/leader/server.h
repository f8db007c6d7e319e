#pragma once

#include <stop_token>
#include <string>

#include "absl/status/status.h"
#include "worker/leader/leader_config.h"

namespace longhaul::worker::leader {

// The program `longhaul-worker leader`: loads what it must know of the model, starts the group,
// serves routers until `stop` is requested, ends everything it started. Blocks. Prints one line on
// standard output when it serves: ready role=leader listen=ADDRESS metrics=HOST:PORT (or none).
//
// `this_program` runs the ranks unless the configuration names another; `secret` is the group's and
// reaches them through the environment variable LONGHAUL_GROUP_SECRET. Returns OK after `stop`,
// otherwise why it could not start (Leader::Start, LeaderModel::Load). The request to stop must not
// come from a signal handler: it takes locks.
absl::Status RunLeader(const LeaderConfig& config, const std::string& this_program,
                       const std::string& secret, const std::stop_token& stop);

}  // namespace longhaul::worker::leader
