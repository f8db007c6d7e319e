#include "worker/leader/engine_report.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace longhaul::worker::leader {

std::vector<std::string> EngineReport(const BatchScheduler& scheduler) {
  const SequencePool& pool = scheduler.pool();
  const PrefixCache& cache = pool.cache();
  std::vector<std::string> lines = {absl::StrCat(
      "running=", pool.running().size(), " waiting=", pool.waiting().size(),
      " plans_in_flight=", scheduler.in_flight().size(), " kv_blocks=", cache.num_blocks(),
      " referenced=", cache.num_referenced(), " available=", pool.num_available())};
  for (const PlannedStep& step : scheduler.in_flight()) {
    std::string line = absl::StrCat("step=", step.step_id, " slices=", step.slices.size(), ":");
    for (size_t i = 0; i < std::min(step.slices.size(), kReportedSequences); ++i) {
      const PlannedSlice& slice = step.slices[i];
      absl::StrAppend(&line, " sequence ", slice.sequence_id, " [", slice.begin, ", ",
                      slice.begin + slice.count, ")", slice.completes ? "" : " cut");
    }
    lines.push_back(std::move(line));
  }
  for (size_t i = 0; i < std::min(pool.running().size(), kReportedSequences); ++i) {
    const Sequence& s = *pool.running()[i];
    lines.push_back(absl::StrCat(
        "sequence=", s.id, " request=", s.request.id.ToString(), " prompt_tokens=",
        s.prompt_tokens(), " output_tokens=", s.output.size(), " cached=", s.cached_tokens,
        " planned=", s.planned_tokens, " processed=", s.processed_tokens,
        " plans_in_flight=", s.plans_in_flight, " blocks=", s.blocks.size(), s.cut ? " cut" : "",
        s.restore_end > 0 ? " restoring" : "", " preemptions=", s.preemptions));
  }
  return lines;
}

}  // namespace longhaul::worker::leader
