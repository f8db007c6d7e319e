#pragma once

#include <cstdint>
#include <deque>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/cost_model.h"
#include "common/types.h"
#include "worker/leader/block_allocator.h"
#include "worker/leader/chunk_planner.h"
#include "worker/leader/sequence.h"
#include "worker/leader/step_budget.h"
#include "worker/leader/stop_rule.h"
#include "worker/step_plan.h"

namespace longhaul::worker::leader {

struct SchedulerLimits {
  int32_t max_model_len = 0;           // prompt and output tokens of one request
  int32_t max_num_batched_tokens = 0;  // tokens of one unit; >= max_num_seqs + kKvBlockTokens
  int32_t max_num_seqs = 0;            // running at the same time
  int32_t max_waiting = 0;             // requests that may wait
  int32_t max_waiting_long = 1;        // of them, long jobs
  int32_t long_prompt_tokens = 0;      // a prompt from this length on is a long job
  int32_t num_layers = 0;
  int32_t max_plans_in_flight = 1;  // pipeline stages
  // Predicted seconds of a step: while others wait for the ranks, and always.
  double step_target_seconds = std::numeric_limits<double>::infinity();
  double max_step_seconds = std::numeric_limits<double>::infinity();
};

// One sequence's share of a planned step. `sequence` is null once the sequence has ended.
struct PlannedSlice {
  Sequence* sequence = nullptr;
  SequenceId sequence_id = 0;
  int64_t begin = 0;
  int64_t count = 0;
  bool sample = false;
  int64_t prompt_logprobs = 0;  // of so many prompt tokens, from begin + 1 on
};

// What the scheduler remembers of a plan until it retires.
struct PlannedStep {
  StepId step_id = 0;
  std::vector<PlannedSlice> slices;
  UnitShape shape;
  bool has_prefill = false;
  bool has_prompt_logprobs = false;
};

// Prompt tokens of one step whose logprobs are asked for: keeps a rank's answer below 5 MB.
inline constexpr int64_t kMaxPromptLogprobsPerStep = 16'384;

// Decides what the group runs next: decodes first, then prefill chunks, in order of priority and
// then of arrival, up to max_num_batched_tokens and the predicted time of a step. Owns the
// sequences and the KV blocks.
//
// Prompts with less than half of the first one's work left pass it: together they get at most half
// of a step, the shortest first, so that a short request beside a million tokens costs them little
// and is answered soon. The first prefill gets a block in every step, whatever it costs.
//
// A sequence runs only when the blocks of its prompt and max_tokens are reserved, so nothing that
// runs can fail for lack of KV. A head of the line that lacks blocks is passed only by those
// without which it would wait all the same: a stream of short requests never keeps a long job
// waiting.
//
// No I/O, no clock, no locks; thread-compatible, owned by the engine core. Several plans may be in
// flight: a chunk that is not a prompt's last waits for no token.
class BatchScheduler {
 public:
  // `stop_rule` is borrowed.
  BatchScheduler(const SchedulerLimits& limits, const StopRule& stop_rule);

  // Whether such a request can ever run. kInvalidArgument: never, the message names what to change.
  absl::Status CheckFits(int64_t prompt_tokens, int64_t max_tokens) const;
  // Whether it could start or wait now. kResourceExhausted: the line is full.
  absl::Status CheckRoom(int64_t prompt_tokens, int64_t max_tokens) const;

  // Takes the request in; it starts at once if nothing is ahead of it and it fits. The reference is
  // valid until End. Precondition: CheckFits and CheckRoom.
  Sequence& Enqueue(Request request);

  // No further unit is planned for it. Its blocks drop when the last plan that names it retires.
  void End(Sequence& sequence);

  // Ranks are up, with these blocks. Precondition: no group is up.
  void GroupUp(int32_t num_blocks);
  // Ranks are gone and the plans with them. Returns the sequences that were running; they wait
  // again, from their first token, in their old place.
  std::vector<Sequence*> GroupDown();

  // The next plan, or nullopt if there is nothing to do or enough is in flight. in_flight().back()
  // then tells what it holds. `cost` predicts its time; zeros if it is not known yet.
  std::optional<StepPlan> Next(const CostCoefficients& cost = {});
  // The oldest plan was executed. kInvalidArgument if `step_id` is not the oldest.
  absl::StatusOr<PlannedStep> Retire(StepId step_id);

  const std::deque<PlannedStep>& in_flight() const { return in_flight_; }
  const std::vector<Sequence*>& running() const { return running_; }  // in order
  const std::vector<Sequence*>& waiting() const { return waiting_; }  // in order
  int32_t num_blocks() const { return blocks_.num_blocks(); }
  int32_t num_free_blocks() const { return blocks_.num_free(); }
  const SchedulerLimits& limits() const { return limits_; }

 private:
  static int32_t BlocksFor(int64_t tokens);
  int32_t ReservationOf(const Sequence& sequence) const;
  bool CanStart(int32_t num_blocks) const;
  // Moves from the line to the running ones what may start.
  void StartWaiting();
  void Start(Sequence& sequence);
  Slice MakeSlice(Sequence& sequence, int64_t count);
  void AddSlice(Sequence& sequence, int64_t count, StepPlan& plan, PlannedStep& step);
  double StepSeconds() const;
  void AddDecodes(StepBudget& budget, StepPlan& plan, PlannedStep& step);
  void AddPrefills(StepBudget& budget, StepPlan& plan, PlannedStep& step);
  // Tokens of the sequence's next chunk. `due`: a block at least, whatever it costs.
  int64_t NextChunk(const Sequence& sequence, const StepBudget& budget, bool due) const;
  void Free(Sequence& sequence);

  const SchedulerLimits limits_;
  const StopRule& stop_rule_;
  const ChunkPlanner planner_;
  BlockAllocator blocks_{0};
  int32_t known_blocks_ = 0;  // of the incarnation that is up, or was last
  bool group_up_ = false;
  std::map<uint64_t, std::unique_ptr<Sequence>> sequences_;  // by order of arrival
  std::vector<Sequence*> waiting_;
  std::vector<Sequence*> running_;
  std::deque<PlannedStep> in_flight_;
  std::vector<SequenceId> unsent_ends_;
  uint64_t next_order_ = 0;
  StepId next_step_id_ = 1;
  SequenceId next_sequence_id_ = 1;
  uint64_t next_unit_id_ = 1;
};

}  // namespace longhaul::worker::leader
