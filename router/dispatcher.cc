#include "router/dispatcher.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "router/error_detail.h"
#include "router/execution_failure.h"
#include "router/prediction.h"
#include "router/resolve_sampling.h"

namespace longhaul::router {
namespace {

constexpr double kShedRetrySeconds = 1.0;
// A group that rejected an execution is asked again after what it predicted, within these bounds.
constexpr absl::Duration kMinRejectHold = absl::Milliseconds(100);
constexpr absl::Duration kMaxRejectHold = absl::Seconds(5);
// A group that lost an execution is given so long for its Watch to end before it may be asked
// again.
constexpr absl::Duration kLossHold = absl::Seconds(5);

size_t MailboxCapacity(const DispatcherOptions& options) {
  constexpr size_t kMessagesPerRequest = 4;
  // Running, and detached ones that have not ended yet.
  constexpr size_t kExecutionsPerChoice = 4;
  return static_cast<size_t>(options.max_requests) *
             (kMessagesPerRequest + kExecutionsPerChoice * kMaxChoices) +
         16;
}

absl::Status ShuttingDown() { return absl::UnavailableError("the router is shutting down"); }

}  // namespace

Dispatcher::Dispatcher(const DispatcherOptions& options, const text::Tokenizer& tokenizer,
                       const ClusterWatch& cluster, const WorkerClient& workers, const Clock& clock,
                       RouterMetrics& metrics)
    : options_(options),
      tokenizer_(tokenizer),
      cluster_(cluster),
      clock_(clock),
      metrics_(metrics),
      mailbox_(MailboxCapacity(options)),
      queue_(static_cast<size_t>(options.max_queued)),
      executions_(workers,
                  [this](uint64_t number, ExecutionEvent event) {
                    Post(ExecutionMessage{number, std::move(event)});
                  }),
      thread_([this] { Run(); }) {}

Dispatcher::~Dispatcher() { Stop(absl::ZeroDuration()); }

absl::Status Dispatcher::Announce(RequestArrival arrival) {
  if (stopping_.load()) return ShuttingDown();
  const int64_t bytes = arrival.prompt_bytes;
  const int64_t live = live_requests_.fetch_add(1) + 1;
  const int64_t live_bytes = live_prompt_bytes_.fetch_add(bytes) + bytes;
  absl::Status refused;
  if (live > options_.max_requests || live_bytes > options_.max_prompt_bytes) {
    metrics_.RequestShed(ShedReason::kBufferFull);
    refused = WithRetryAfter(
        absl::ResourceExhaustedError(absl::StrCat(
            "the router holds ", live - 1, " requests (limit ", options_.max_requests, ") with ",
            live_bytes - bytes, " prompt bytes (limit ", options_.max_prompt_bytes, ")")),
        kShedRetrySeconds);
  } else if (!Post(std::move(arrival))) {
    refused = ShuttingDown();
  }
  if (!refused.ok()) {
    live_requests_.fetch_sub(1);
    live_prompt_bytes_.fetch_sub(bytes);
  }
  return refused;
}

void Dispatcher::Prepared(const RequestId& id, absl::StatusOr<PreparedRequest> prepared) {
  Post(PreparedMessage{id, std::move(prepared)});
}

void Dispatcher::Cancel(const RequestId& id) { Post(CancelMessage{id}); }

void Dispatcher::ViewChanged() {
  // One message stands for all changes until the thread looks at the view.
  if (!view_posted_.exchange(true)) Post(ViewMessage{});
}

void Dispatcher::Stop(absl::Duration grace) {
  if (!thread_.joinable()) return;
  stopping_.store(true);
  Post(StopMessage{clock_.Now() + grace});
  thread_.join();
}

bool Dispatcher::Post(Message message) {
  const absl::Status pushed = mailbox_.Push(std::move(message));
  CHECK(!absl::IsResourceExhausted(pushed)) << pushed;  // by the bound stated at mailbox_
  return pushed.ok();
}

void Dispatcher::Run() {
  while (!(stop_at_ && requests_.empty() && executions_.empty())) {
    std::optional<Message> message = mailbox_.Pop(NextWake());
    if (message) {
      std::visit([this](auto& what) { Handle(std::move(what)); }, *message);
    }
    ExpireDeadlines();
    const absl::Time now = clock_.Now();
    if (stop_at_ && now >= *stop_at_) FailAll(ShuttingDown(), /*running_too=*/true);
    if (dispatch_due_ || now >= next_dispatch_) DispatchQueued();
  }
  mailbox_.Close();
  RefuseLateArrivals();
}

absl::Time Dispatcher::NextWake() const {
  absl::Time wake = next_dispatch_;
  if (!deadlines_.empty()) wake = std::min(wake, deadlines_.begin()->first);
  if (stop_at_ && !requests_.empty()) wake = std::min(wake, *stop_at_);
  return wake;
}

void Dispatcher::RefuseLateArrivals() {
  while (std::optional<Message> message = mailbox_.Pop(absl::InfinitePast())) {
    if (auto* arrival = std::get_if<RequestArrival>(&*message)) {
      arrival->sink->OnError(ShuttingDown());
    }
  }
}

void Dispatcher::Handle(RequestArrival arrival) {
  metrics_.RequestReceived();
  const RequestId id = arrival.id;
  if (arrival.deadline != absl::InfiniteFuture()) deadlines_.emplace(arrival.deadline, id);
  const auto [entry, inserted] = requests_.try_emplace(id, std::move(arrival));
  CHECK(inserted) << "request=" << id.ToString() << " was announced twice";
  metrics_.LiveRequests(requests_.size());
  if (stop_at_) Fail(entry->second, ShuttingDown());
}

void Dispatcher::Handle(PreparedMessage message) {
  const auto entry = requests_.find(message.id);
  if (entry == requests_.end()) return;
  LiveRequest& request = entry->second;
  if (!message.prepared.ok()) return Fail(request, message.prepared.status());
  request.SetPrepared(*std::move(message.prepared), tokenizer_);

  const absl::Time now = clock_.Now();
  const ClusterView charged = charges_.Apply(*cluster_.view());
  const double predicted_seconds =
      LeastPrefillSeconds(charged, request.prompt_tokens(), request.request().prefixes);
  const ServiceRate rate = RateOf(charged, predicted_seconds);
  const int32_t priority = request.request().priority;
  const size_t num_ahead = queue_.NumAhead(priority);
  const std::optional<double> predicted_wait =
      queue_.PredictedWaitSeconds(priority, predicted_seconds, rate);
  std::vector<WaitingExecution> executions;
  for (ChoiceState& choice : request.choices()) {
    choice.waiting.predicted_seconds = predicted_seconds;
    choice.queued_at = now;
    executions.push_back(choice.waiting);
  }
  const bool room = queue_.size() + executions.size() <= static_cast<size_t>(options_.max_queued);
  const absl::Status admitted = queue_.Admit(executions, rate, now);
  if (!admitted.ok()) {
    metrics_.RequestShed(room ? ShedReason::kDeadline : ShedReason::kQueueFull);
    return Fail(request, admitted);
  }
  LOG(INFO) << "request=" << message.id.ToString()
            << " event=queued prompt_tokens=" << request.prompt_tokens()
            << " choices=" << executions.size() << " ahead=" << num_ahead;
  metrics_.QueueDepth(queue_.size());
  request.Queued(num_ahead, predicted_wait);
  dispatch_due_ = true;
}

void Dispatcher::Handle(CancelMessage message) {
  const auto entry = requests_.find(message.id);
  if (entry == requests_.end()) return;
  LOG(INFO) << "request=" << message.id.ToString() << " event=cancelled";
  metrics_.RequestFailed(absl::StatusCode::kCancelled);
  GiveBack(entry->second);
  Forget(entry->second);
}

void Dispatcher::Handle(ViewMessage) {
  view_posted_.store(false);
  dispatch_due_ = true;
  executions_.LoseAt(cluster_.view()->silent);
}

void Dispatcher::Handle(StopMessage message) {
  stop_at_ = message.until;
  LOG(INFO) << "event=stopping live_requests=" << requests_.size();
  FailAll(ShuttingDown(), /*running_too=*/false);
}

void Dispatcher::Handle(ExecutionMessage message) {
  const std::optional<ExecutionKey> key = executions_.Find(message.execution);
  const auto* ended = std::get_if<EndedEvent>(&message.event);
  if (ended != nullptr) executions_.Remove(message.execution);
  if (key) {
    LiveRequest& request = requests_.at(key->request);
    ChoiceState& choice = request.choices().at(static_cast<size_t>(key->choice));
    if (ended == nullptr) {
      OnEvent(request, choice, std::move(message.event));
    } else {
      choice.execution = 0;
      charges_.Drop(*key);
      OnFailure(request, choice,
                ended->status.ok()
                    ? absl::UnavailableError(absl::StrCat("worker ", choice.group.address,
                                                          " ended the stream before its result"))
                    : ended->status);
    }
  }
  if (ended == nullptr) executions_.Resume(message.execution);
}

void Dispatcher::OnEvent(LiveRequest& request, ChoiceState& choice, ExecutionEvent event) {
  const ExecutionKey& key = choice.waiting.key;
  if (const auto* admitted = std::get_if<AdmittedEvent>(&event)) {
    choice.admitted = true;
    choice.cached_tokens = admitted->cached_tokens;
    uint64_t load_sequence = 0;
    // Held: a newer view may be published meanwhile.
    const std::shared_ptr<const ClusterView> view = cluster_.view();
    for (const Group& group : view->groups) {
      if (choice.group == GroupLife{group.address, group.incarnation}) {
        load_sequence = group.load.sequence;
      }
    }
    charges_.Admitted(key, load_sequence);
  } else if (const auto* rejected = std::get_if<RejectedEvent>(&event)) {
    OnRejected(request, choice, rejected->predicted_wait_seconds, rejected->reason);
  } else if (const auto* progress = std::get_if<ProgressEvent>(&event)) {
    if (!choice.prefill_began && progress->processed_tokens > progress->cached_tokens) {
      choice.prefill_began = true;
      charges_.PrefillBegan(key);
      dispatch_due_ = true;  // the slot for a long job is free
    }
    choice.processed_tokens = progress->processed_tokens;
    request.Progress(key.choice, *progress);
  } else if (auto* prompt = std::get_if<PromptLogprobsEvent>(&event)) {
    OnPromptLogprobs(request, choice, std::move(*prompt));
  } else if (auto* tokens = std::get_if<TokensEvent>(&event)) {
    OnTokens(request, choice, std::move(*tokens));
  } else if (const auto* result = std::get_if<ResultEvent>(&event)) {
    OnResult(request, choice, *result);
  }
}

void Dispatcher::OnPromptLogprobs(LiveRequest& request, ChoiceState& choice,
                                  PromptLogprobsEvent event) {
  const absl::Status told =
      request.DeliverPrompt(choice.waiting.key.choice, event.begin, std::move(event.tokens));
  if (!told.ok()) Fail(request, told);
}

void Dispatcher::OnTokens(LiveRequest& request, ChoiceState& choice, TokensEvent event) {
  const absl::Time now = clock_.Now();
  if (!choice.first_token) metrics_.FirstToken(now - request.arrival().arrival);
  metrics_.TokensGenerated(static_cast<int64_t>(event.tokens.size()));
  if (!choice.prefill_began) {
    choice.prefill_began = true;
    charges_.PrefillBegan(choice.waiting.key);
  }
  if (const absl::Status told = request.FinishPrompt(choice.waiting.key.choice); !told.ok()) {
    return Fail(request, told);
  }
  if (request.Deliver(choice.waiting.key.choice, std::move(event.tokens), now)) {
    FinishChoice(request, choice, FinishReason::kStop);
  }
}

void Dispatcher::OnResult(LiveRequest& request, ChoiceState& choice, const ResultEvent& event) {
  if (!event.error.ok()) {
    Detach(choice);
    return OnFailure(request, choice, event.error);
  }
  choice.cached_tokens = event.cached_tokens;
  FinishChoice(request, choice, event.reason);
}

void Dispatcher::OnRejected(LiveRequest& request, ChoiceState& choice,
                            double predicted_wait_seconds, const std::string& reason) {
  metrics_.Redispatched(RedispatchReason::kRejected);
  Detach(choice);
  PutBack(request, choice,
          std::clamp(absl::Seconds(predicted_wait_seconds), kMinRejectHold, kMaxRejectHold),
          absl::ResourceExhaustedError(reason));
}

void Dispatcher::OnFailure(LiveRequest& request, ChoiceState& choice, const absl::Status& status) {
  const FailedExecution failed{.status = status,
                               .admitted = choice.admitted,
                               .tokens_delivered = choice.output->num_tokens(),
                               .retries = choice.retries};
  switch (ActionAfter(failed)) {
    case FailureAction::kElsewhere:
      return OnRejected(request, choice, kShedRetrySeconds, std::string(status.message()));
    case FailureAction::kRetry:
      ++choice.retries;
      metrics_.Redispatched(RedispatchReason::kUnavailable);
      return PutBack(request, choice, kLossHold, status);
    case FailureAction::kFail:
      return Fail(request, StatusForClient(failed));
  }
}

void Dispatcher::FinishChoice(LiveRequest& request, ChoiceState& choice, FinishReason reason) {
  Detach(choice);
  if (reason != FinishReason::kCancelled) {
    const absl::Status told = request.FinishPrompt(choice.waiting.key.choice);
    if (!told.ok()) return Fail(request, told);
  }
  LOG(INFO) << "request=" << request.arrival().id.ToString()
            << " choice=" << choice.waiting.key.choice
            << " event=finished tokens=" << choice.output->num_tokens();
  if (request.one_choice_left()) {
    metrics_.RequestFinished(reason);
    GiveBack(request);
  }
  if (request.FinishChoice(choice.waiting.key.choice, reason)) Forget(request);
}

void Dispatcher::Fail(LiveRequest& request, const absl::Status& status) {
  LOG(INFO) << "request=" << request.arrival().id.ToString() << " event=failed status=" << status;
  metrics_.RequestFailed(status.code());
  GiveBack(request);
  request.Fail(status);
  Forget(request);
}

// Before the client sees the end: who has it may look at the metrics, or send the next request.
void Dispatcher::GiveBack(const LiveRequest& request) {
  live_requests_.fetch_sub(1);
  live_prompt_bytes_.fetch_sub(request.arrival().prompt_bytes);
}

void Dispatcher::Forget(LiveRequest& request) {
  const RequestArrival& arrival = request.arrival();
  arrival.abandoned->store(true);
  for (ChoiceState& choice : request.choices()) {
    Detach(choice);
    queue_.Remove(choice.waiting.key);
  }
  deadlines_.erase({arrival.deadline, arrival.id});
  requests_.erase(RequestId(arrival.id));
  metrics_.LiveRequests(requests_.size());
  metrics_.QueueDepth(queue_.size());
}

void Dispatcher::Detach(ChoiceState& choice) {
  if (choice.execution == 0) return;
  executions_.Detach(choice.execution);
  choice.execution = 0;
  charges_.Cancelled(choice.waiting.key, *cluster_.view(),
                     requests_.at(choice.waiting.key.request).prompt_tokens(),
                     choice.processed_tokens);
  dispatch_due_ = true;
}

void Dispatcher::PutBack(LiveRequest& request, ChoiceState& choice, absl::Duration hold,
                         const absl::Status& reason) {
  LOG(INFO) << "request=" << request.arrival().id.ToString()
            << " choice=" << choice.waiting.key.choice << " group=" << choice.group.address
            << " event=put_back reason=" << reason;
  if (stop_at_) return Fail(request, ShuttingDown());
  const absl::Time now = clock_.Now();
  choice.holds.push_back({choice.group, now + hold});
  choice.queued_at = now;
  choice.admitted = choice.prefill_began = false;
  choice.processed_tokens = 0;
  queue_.PutBack(choice.waiting);
  metrics_.QueueDepth(queue_.size());
  dispatch_due_ = true;
}

PlacementRequest Dispatcher::PlacementFor(const WaitingExecution& waiting, absl::Time now) {
  LiveRequest& request = requests_.at(waiting.key.request);
  ChoiceState& choice = request.choices().at(static_cast<size_t>(waiting.key.choice));
  std::erase_if(choice.holds, [now](const ChoiceState::Hold& hold) { return hold.until <= now; });
  PlacementRequest placement{.model = request.request().model,
                             .prompt_tokens = request.prompt_tokens(),
                             .max_tokens = request.request().stop.max_tokens,
                             .prefixes = request.request().prefixes};
  for (const ChoiceState::Hold& hold : choice.holds) {
    placement.avoid.push_back(hold.group);
    next_dispatch_ = std::min(next_dispatch_, hold.until);
  }
  return placement;
}

void Dispatcher::DispatchQueued() {
  dispatch_due_ = false;
  next_dispatch_ = absl::InfiniteFuture();
  const absl::Time now = clock_.Now();
  const std::shared_ptr<const ClusterView> view = cluster_.view();
  if (view->num_healthy() == 0) {
    if (!no_group_since_) no_group_since_ = now;
    return FailWithoutGroup(now);
  }
  no_group_since_.reset();
  std::map<RequestId, int32_t> too_long;  // with the limit that they break
  while (true) {
    const ClusterView charged = charges_.Apply(*view);
    Placement placement;
    const std::optional<WaitingExecution> taken =
        queue_.TakeFirst([&](const WaitingExecution& waiting) {
          placement = Place(charged, PlacementFor(waiting, now));
          if (placement.outcome == PlacementOutcome::kTooLong) {
            too_long[waiting.key.request] = placement.max_model_len;
          }
          return placement.outcome == PlacementOutcome::kPlaced;
        });
    if (!taken) break;
    Start(*taken, charged.groups[placement.group], placement.charge);
  }
  for (const auto& [id, limit] : too_long) {
    const auto entry = requests_.find(id);
    if (entry == requests_.end()) continue;
    const LiveRequest& request = entry->second;
    Fail(entry->second,
         InvalidField("max_tokens",
                      absl::StrCat("prompt has ", request.prompt_tokens(),
                                   " tokens, max_tokens is ", request.request().stop.max_tokens,
                                   ", limit of the groups now ", limit, " (max_model_len)")));
  }
  metrics_.QueueDepth(queue_.size());
}

void Dispatcher::FailWithoutGroup(absl::Time now) {
  std::vector<RequestId> expired;
  for (auto& [id, request] : requests_) {
    for (const ChoiceState& choice : request.choices()) {
      if (choice.done || choice.execution != 0) continue;
      const absl::Time until =
          std::max(*no_group_since_, choice.queued_at) + options_.wait_for_group;
      if (now >= until) {
        expired.push_back(id);
        break;
      }
      next_dispatch_ = std::min(next_dispatch_, until);
    }
  }
  for (const RequestId& id : expired) {
    Fail(requests_.at(id),
         absl::UnavailableError(absl::StrCat("no group was ready within ",
                                             absl::FormatDuration(options_.wait_for_group))));
  }
}

void Dispatcher::Start(const WaitingExecution& waiting, const Group& group,
                       const GroupCharge& charge) {
  const ExecutionKey key = waiting.key;
  LiveRequest& request = requests_.at(key.request);
  ChoiceState& choice = request.choices().at(static_cast<size_t>(key.choice));
  choice.waiting = waiting;
  choice.group = GroupLife{group.address, group.incarnation};
  charges_.Charge(key, choice.group, charge);
  const absl::Duration waited = clock_.Now() - choice.queued_at;
  metrics_.Dispatched(waited);
  LOG(INFO) << "request=" << key.request.ToString() << " choice=" << key.choice
            << " group=" << group.address
            << " event=dispatched queue_seconds=" << absl::ToDoubleSeconds(waited)
            << " retries=" << choice.retries;

  ExecutionSpec spec = request.Spec(key.choice);
  spec.model = group.limits.model;
  spec.model_digest = group.limits.model_digest;
  choice.execution = executions_.Start(key, group.address, std::move(spec));
}

void Dispatcher::ExpireDeadlines() {
  const absl::Time now = clock_.Now();
  while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
    LiveRequest& request = requests_.at(deadlines_.begin()->second);
    const absl::Duration allowed = request.arrival().deadline - request.arrival().arrival;
    Fail(request,
         absl::DeadlineExceededError(absl::StrCat("the request did not end within its deadline of ",
                                                  absl::FormatDuration(allowed))));
  }
}

void Dispatcher::FailAll(const absl::Status& status, bool running_too) {
  std::vector<RequestId> ending;
  for (auto& [id, request] : requests_) {
    const auto waits = [](const ChoiceState& choice) { return !choice.done && !choice.execution; };
    const bool waiting = !request.prepared() ||
                         std::any_of(request.choices().begin(), request.choices().end(), waits);
    if (waiting || running_too) ending.push_back(id);
  }
  for (const RequestId& id : ending) Fail(requests_.at(id), status);
}

}  // namespace longhaul::router
