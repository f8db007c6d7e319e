#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/cost_model.h"
#include "common/types.h"
#include "worker/leader/chunk_planner.h"
#include "worker/leader/scheduler_limits.h"
#include "worker/leader/sequence.h"
#include "worker/leader/sequence_pool.h"
#include "worker/leader/step_budget.h"
#include "worker/leader/stop_rule.h"
#include "worker/step_plan.h"

namespace longhaul::worker::leader {

// One sequence's share of a planned step. `sequence` is null once the sequence has ended.
struct PlannedSlice {
  Sequence* sequence = nullptr;
  SequenceId sequence_id = 0;
  int64_t begin = 0;
  int64_t count = 0;
  bool completes = true;        // goes through the model's last layer; else its unit is cut there
  bool sample = false;          // and a token is sampled from its last row
  int64_t prompt_logprobs = 0;  // and of so many prompt tokens, from begin + 1 on
  int64_t repeated = 0;         // of its rows, what had been processed before a loss or preemption
  bool freed = false;           // the sequence had ended, and nothing names its blocks any more
};

// What the scheduler remembers of a plan until it retires.
struct PlannedStep {
  StepId step_id = 0;
  std::vector<PlannedSlice> slices;
  UnitShape shape;
  bool has_prefill = false;
  bool has_prompt_logprobs = false;
  bool has_moves = false;
};

// Prompt tokens of one step whose logprobs are asked for: keeps a rank's answer below 5 MB.
inline constexpr int64_t kMaxPromptLogprobsPerStep = 16'384;

// Decides what the group runs next: decodes first, then prefill chunks, in order of priority and
// then of arrival, up to max_num_batched_tokens and the predicted time of a step.
//
// Prompts with less than half of the first one's work left pass it: together they get at most half
// of a step, the shortest first, so that a short request beside a million tokens costs them little
// and is answered soon. The first prefill gets a part of every step: a block at least, or where
// that alone would take too long, a block through some of the layers (a unit of its own, which goes
// on in the next step).
//
// With several pipeline stages the decodes are dealt out to as many plans as there are stages, so
// that all stages have some to run, and chunks are as long as serves the time to first token best.
//
// No I/O, no clock, no locks; thread-compatible, owned by the engine core. Several plans may be in
// flight: a chunk that is not a prompt's last waits for no token.
class BatchScheduler {
 public:
  // `stop_rule` is borrowed.
  BatchScheduler(const SchedulerLimits& limits, const PrefixRule& prefix,
                 const StopRule& stop_rule);

  SequencePool& pool() { return pool_; }
  const SequencePool& pool() const { return pool_; }

  // No further unit is planned for it. Its blocks drop when the last plan that names it retires.
  // Returns whether that is now: `sequence` is then gone.
  bool End(Sequence& sequence);

  // Ranks are up, with these blocks. Precondition: no group is up.
  void GroupUp(const KvCapacity& capacity);
  // Ranks are gone and the plans with them. Returns the sequences that were running; they wait
  // again in their old place.
  std::vector<Sequence*> GroupDown();

  // The next plan, or nullopt if there is nothing to do or enough is in flight. in_flight().back()
  // then tells what it holds. `cost` predicts its time (with several stages, that of the slowest);
  // zeros if it is not known yet.
  std::optional<StepPlan> Next(const CostCoefficients& cost = {});
  // The oldest plan was executed, but for these of its moves. kInvalidArgument if `step_id` is not
  // the oldest.
  absl::StatusOr<PlannedStep> Retire(StepId step_id, std::span<const int32_t> failed_moves = {});

  const std::deque<PlannedStep>& in_flight() const { return in_flight_; }
  const SchedulerLimits& limits() const { return limits_; }

 private:
  // A unit of one sequence that waits at a layer.
  struct CutUnit {
    Sequence* sequence = nullptr;
    Slice slice;
    PlannedSlice planned;  // as of the part that completes it
    uint64_t unit_id = 0;
    int32_t next_layer = 0;
  };
  struct Draft {
    StepPlan plan;  // units[0] is that of whole units, maybe without slices
    PlannedStep step;
    StepBudget budget;
  };

  double StepSeconds() const;
  // Begins the sequence's next `count` tokens: what the ranks are told and what is remembered.
  Slice MakeSlice(Sequence& sequence, int64_t count, StepPlan& plan, PlannedSlice& planned);
  void Remember(const PlannedSlice& planned, bool prefill, double fraction, PlannedStep& step);
  void AddWhole(Sequence& sequence, int64_t count, Draft& draft);
  void AddDecodes(Draft& draft);
  void AddPrefills(Draft& draft, const CostCoefficients& cost);
  // The first in line, of which not even a block fits in time: a block, whole or through as many
  // layers as fit.
  void AddDue(Sequence& sequence, Draft& draft);
  // The unit that waits between layers goes on; `due`: one layer at least.
  void ContinueCut(bool due, Draft& draft);
  void AddPart(CutUnit unit, int32_t layers, Draft& draft);
  // Layers from `begin` on that take at most `fraction` of the time of a whole unit.
  int32_t LayersWithin(double fraction, int32_t begin) const;
  double FractionOf(int32_t layers) const;

  const SchedulerLimits limits_;
  const StopRule& stop_rule_;
  const ChunkPlanner planner_;
  SequencePool pool_;
  std::optional<CutUnit> cut_;
  std::deque<PlannedStep> in_flight_;
  StepId next_step_id_ = 1;
  uint64_t next_unit_id_ = 1;
};

}  // namespace longhaul::worker::leader
