#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/types.h"
#include "worker/leader/batch_scheduler.h"
#include "worker/leader/cost_fit.h"
#include "worker/leader/event_announcer.h"
#include "worker/leader/event_log.h"
#include "worker/leader/leader_metrics.h"
#include "worker/leader/load_board.h"
#include "worker/leader/plan_sink.h"
#include "worker/leader/request.h"
#include "worker/leader/request_table.h"
#include "worker/leader/saved_cost.h"
#include "worker/leader/stop_rule.h"
#include "worker/leader/warm_up.h"
#include "worker/step_plan.h"

namespace longhaul::worker::leader {

struct EngineOptions {
  SchedulerLimits scheduler;
  PrefixRule prefix;
  std::vector<TokenId> end_tokens;  // the model's
  int32_t vocab_size = 0;
  // In the logs of finished requests that are kept for a reader.
  int64_t max_kept_tokens = int64_t{4} << 20;
  // Before the first request, seconds of work; 0 = no warm-up. None on hardware with saved costs.
  double warm_up_seconds = 0;
  std::vector<SavedCost> saved_costs;  // of this model and group
  // Hears of costs that are worth being saved, from the engine thread; returns at once. May be
  // empty.
  std::function<void(const SavedCost&)> keep_cost;
};

// What the engine thread does: the life of each request from submission to its last event, told as
// a state machine without threads. Takes `now`; thread-compatible.
//
// A request has an entry from Submit until Finished, and on until its detach_ttl is over if it has
// one. Each log gets exactly one end: Admitted, ..., Finished; or Rejected; or a status
// (malformed).
class EngineCore {
 public:
  // All references are borrowed.
  EngineCore(const EngineOptions& options, PlanSink& sink, RequestTable& requests, LoadBoard& board,
             LeaderMetrics& metrics);

  void Submit(Request request, const std::shared_ptr<EventLog>& log, absl::Time now);
  // Unknown ids are ignored: the request may have ended.
  void Cancel(const RequestId& id, absl::Time now);
  // A stream of this request closed. Without another reader the request is cancelled, or detached.
  void ReaderLeft(const RequestId& id, absl::Time now);
  // No new request; what still runs at `deadline` fails.
  void Drain(absl::Time deadline);
  // Every request fails with `reason`; nothing follows.
  void Stop(const absl::Status& reason, absl::Time now);

  void GroupUp(uint64_t incarnation, const GroupFacts& facts);
  void StepDone(uint64_t incarnation, const StepResult& result, absl::Time now);
  // A step does not end: logs what there is.
  void StepStuck(uint64_t incarnation) const;
  // Requests of which no token was delivered start again with the next incarnation, once; others
  // fail.
  void GroupDown(uint64_t incarnation, const absl::Status& reason, absl::Time now);

  // After each of the above: ends what is past its time, plans what can run, and then, while the
  // ranks work, tells readers of their events and publishes the load.
  void Advance(absl::Time now);
  // When Advance has something to do by itself.
  absl::Time next_wake() const { return next_wake_; }

  const SequencePool& pool() const { return scheduler_.pool(); }

 private:
  struct Entry {
    Sequence* sequence = nullptr;  // null once finished
    std::shared_ptr<EventLog> log;
    absl::Time deadline = absl::InfiniteFuture();
    std::optional<absl::Duration> detach_ttl;
    absl::Time expiry = absl::InfiniteFuture();  // detached, no reader: until then
  };

  struct Kept {
    RequestId id;
    int64_t tokens = 0;  // in its log: output, and of the prompt those with logprobs
  };

  void Finish(const RequestId& id, FinishReason reason, const absl::Status& error, absl::Time now);
  void Forget(const RequestId& id);
  void Keep(const RequestId& id, int64_t tokens);
  void FailAll(const absl::Status& reason, absl::Time now);
  void ApplySlice(const PlannedSlice& slice, const StepResult& result, absl::Time now);
  void TellPromptLogprobs(Sequence& sequence, const StepResult& result);
  void TellProgress(const Sequence& sequence);
  void AcceptToken(Sequence& sequence, const GeneratedToken& token, absl::Time now);
  void EndOverdue(absl::Time now);
  void WakeAt(absl::Time time);
  void PublishLoad();
  void EndWarmUp();
  void TellCost();
  bool warming_up() const { return warm_up_.has_value(); }

  // Predicted seconds of prefill that `sequence` still needs, and of what is ahead of it in the
  // line.
  double PrefillSeconds(const Sequence& sequence) const;
  double SecondsAhead(const Sequence& sequence) const;
  double QueuedSeconds() const;

  const StopRule stop_rule_;
  const int32_t vocab_size_;
  const int64_t max_kept_tokens_;
  PlanSink& sink_;
  RequestTable& requests_;
  LoadBoard& board_;
  LeaderMetrics& metrics_;

  BatchScheduler scheduler_;
  CostFit cost_;
  std::optional<WarmUp> warm_up_;  // until it is over: no request is taken
  const std::vector<SavedCost> saved_costs_;
  const std::function<void(const SavedCost&)> keep_cost_;
  std::string hardware_;      // of the ranks that are up, or were last
  uint64_t incarnation_ = 0;  // of the group that is up, 0 = none
  std::unordered_map<RequestId, Entry> entries_;
  EventAnnouncer announcer_;
  std::deque<Kept> kept_;                 // finished and kept for a reader, oldest first
  int64_t kept_tokens_ = 0;               // of all of them
  std::deque<double> predicted_seconds_;  // of the plans in flight
  std::optional<absl::Time> busy_since_;  // plans in flight; counted up to here
  // Sequences that were cancelled while plans in flight named them, and when.
  std::unordered_map<SequenceId, absl::Time> cancelled_;
  bool draining_ = false;
  absl::Time drain_deadline_ = absl::InfiniteFuture();
  absl::Time next_wake_ = absl::InfiniteFuture();
  std::optional<Load> published_;
};

}  // namespace longhaul::worker::leader
