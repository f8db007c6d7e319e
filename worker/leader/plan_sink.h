#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "worker/leader/group_facts.h"
#include "worker/step_plan.h"

namespace longhaul::worker::leader {

// Where the engine sends plans: the group. Thread-safe; calls return at once.
class PlanSink {
 public:
  virtual ~PlanSink() = default;

  // Plans of an incarnation that is over are dropped. A step that takes far longer than
  // predicted is a stalled rank; nullopt: nothing like it was seen yet.
  virtual void Send(uint64_t incarnation, StepPlan plan,
                    std::optional<double> predicted_seconds) = 0;

  // The ranks answered something impossible: they are restarted.
  virtual void Fail(uint64_t incarnation, std::string reason) = 0;
};

// Who hears of the group's life: the engine. Thread-safe; calls return at once. Per incarnation:
// one OnGroupUp, its steps in order, one OnGroupDown; incarnations do not overlap.
class GroupListener {
 public:
  virtual ~GroupListener() = default;
  virtual void OnGroupUp(uint64_t incarnation, const GroupFacts& facts) = 0;
  virtual void OnStepDone(uint64_t incarnation, StepResult result) = 0;
  // The oldest step takes far longer than predicted; OnGroupDown follows soon if it does not end.
  virtual void OnStepStuck(uint64_t incarnation) = 0;
  virtual void OnGroupDown(uint64_t incarnation, absl::Status reason) = 0;
};

}  // namespace longhaul::worker::leader
