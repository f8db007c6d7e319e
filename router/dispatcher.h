#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <thread>
#include <unordered_map>
#include <utility>
#include <variant>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/queue.h"
#include "router/admission_queue.h"
#include "router/charge_book.h"
#include "router/cluster_watch.h"
#include "router/live_request.h"
#include "router/placement.h"
#include "router/prepare_request.h"
#include "router/router_metrics.h"
#include "router/running_executions.h"
#include "router/worker_client.h"

namespace longhaul::router {

struct DispatcherOptions {
  int32_t max_requests = 1024;                        // live ones: tokenizing, queued and running
  int64_t max_prompt_bytes = int64_t{2} << 30;        // of live requests
  int32_t max_queued = 1024;                          // executions
  absl::Duration wait_for_group = absl::Seconds(60);  // while no group is healthy
};

// Owns every request from Announce to its end, and finalises it exactly once.
//
// One thread (the dispatch thread) does all of it: it queues what is prepared, asks placement for a
// group whenever something changed, starts executions, passes their events on to the sinks, and
// retries: a rejected execution elsewhere or later, one whose worker was lost before any token at
// most once, with the same request id and seed. It sleeps while nothing happens.
//
// Bounded: `max_requests` and `max_prompt_bytes` shed in Announce, `max_queued` sheds after
// tokenizing.
class Dispatcher {
 public:
  // All are borrowed and outlive this.
  Dispatcher(const DispatcherOptions& options, const text::Tokenizer& tokenizer,
             const ClusterWatch& cluster, const WorkerClient& workers, const Clock& clock,
             RouterMetrics& metrics);
  ~Dispatcher();  // Stop, at once
  Dispatcher(const Dispatcher&) = delete;
  Dispatcher& operator=(const Dispatcher&) = delete;

  // All below are thread-safe and return at once, but for Stop.

  // Takes the request over; Prepared must follow. Errors (nothing was kept): kResourceExhausted
  // with a retry hint, kUnavailable after Stop.
  absl::Status Announce(RequestArrival arrival);

  // The outcome of tokenizing. Ignored if the request has ended.
  void Prepared(const RequestId& id, absl::StatusOr<PreparedRequest> prepared);

  // No event follows once the cancellation is seen. Unknown ids are ignored.
  void Cancel(const RequestId& id);

  // The view of the cluster changed.
  void ViewChanged();

  // Queued requests fail with kUnavailable now, running ones when `grace` is over. Returns when all
  // have ended and the thread is gone. Idempotent.
  void Stop(absl::Duration grace);

  bool accepting() const { return !stopping_.load(); }

 private:
  struct PreparedMessage {
    RequestId id;
    absl::StatusOr<PreparedRequest> prepared;
  };
  struct CancelMessage {
    RequestId id;
  };
  struct ViewMessage {};
  struct ExecutionMessage {
    uint64_t execution;
    ExecutionEvent event;
  };
  struct StopMessage {
    absl::Time until;
  };
  using Message = std::variant<RequestArrival, PreparedMessage, CancelMessage, ViewMessage,
                               ExecutionMessage, StopMessage>;
  using Requests = std::unordered_map<RequestId, LiveRequest>;

  // False if the thread is gone.
  bool Post(Message message);
  void Run();
  absl::Time NextWake() const;

  void Handle(RequestArrival arrival);
  void Handle(PreparedMessage message);
  void Handle(CancelMessage message);
  void Handle(ViewMessage message);
  void Handle(ExecutionMessage message);
  void Handle(StopMessage message);

  void OnEvent(LiveRequest& request, ChoiceState& choice, ExecutionEvent event);
  void OnPromptLogprobs(LiveRequest& request, ChoiceState& choice, PromptLogprobsEvent event);
  void OnTokens(LiveRequest& request, ChoiceState& choice, TokensEvent event);
  void OnResult(LiveRequest& request, ChoiceState& choice, const ResultEvent& event);
  void OnRejected(LiveRequest& request, ChoiceState& choice, double predicted_wait_seconds,
                  const std::string& reason);
  // The execution failed: retries or fails the request.
  void OnFailure(LiveRequest& request, ChoiceState& choice, const absl::Status& status);

  // Starts what can be started; fails what can never be.
  void DispatchQueued();
  void Start(const WaitingExecution& waiting, const Group& group, const GroupCharge& charge);
  // Back to the queue; its group is not asked again before `hold` is over.
  void PutBack(LiveRequest& request, ChoiceState& choice, absl::Duration hold,
               const absl::Status& reason);
  PlacementRequest PlacementFor(const WaitingExecution& waiting, absl::Time now);
  // The choice's execution does not concern it any more; its stream is closed.
  void Detach(ChoiceState& choice);
  void FailWithoutGroup(absl::Time now);
  void FailAll(const absl::Status& status, bool running_too);
  // Drains what came after the thread's last look.
  void RefuseLateArrivals();
  void ExpireDeadlines();

  void FinishChoice(LiveRequest& request, ChoiceState& choice, FinishReason reason);
  void Fail(LiveRequest& request, const absl::Status& status);
  // What the request held of the budgets, once.
  void GiveBack(const LiveRequest& request);
  // Drops everything that belongs to the request, and the request.
  void Forget(LiveRequest& request);

  const DispatcherOptions options_;
  const text::Tokenizer& tokenizer_;
  const ClusterWatch& cluster_;
  const Clock& clock_;
  RouterMetrics& metrics_;

  // Each live request has at most an arrival, a prepared and two cancel messages on their way, each
  // execution one event; and there is one view message, and one stop message for each Stop.
  BoundedQueue<Message> mailbox_;
  std::atomic<int64_t> live_requests_ = 0;
  std::atomic<int64_t> live_prompt_bytes_ = 0;
  std::atomic<bool> view_posted_ = false;
  std::atomic<bool> stopping_ = false;

  // Dispatch thread only.
  Requests requests_;
  AdmissionQueue queue_;
  ChargeBook charges_;
  RunningExecutions executions_;
  std::set<std::pair<absl::Time, RequestId>> deadlines_;
  bool dispatch_due_ = false;
  absl::Time next_dispatch_ =
      absl::InfiniteFuture();  // when a hold or the wait for a group is over
  std::optional<absl::Time> no_group_since_;
  std::optional<absl::Time> stop_at_;  // set by Stop: when running requests are ended

  std::thread thread_;  // last: starts when the rest is made
};

}  // namespace longhaul::router
