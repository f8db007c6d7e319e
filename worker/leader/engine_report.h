#pragma once

#include <string>
#include <vector>

#include "worker/leader/batch_scheduler.h"

namespace longhaul::worker::leader {

// What the engine holds, for a log that explains a step which does not end: plans in flight with
// their slices, sequences that run, KV. One line each, no token; the first kReportedSequences of
// each kind. Pure.
inline constexpr size_t kReportedSequences = 32;
std::vector<std::string> EngineReport(const BatchScheduler& scheduler);

}  // namespace longhaul::worker::leader
