#include "worker/leader/engine_core.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "worker/leader/engine_report.h"
#include "worker/leader/prompt_logprobs.h"

namespace longhaul::worker::leader {
namespace {

// Finished requests kept for a reader to come back. Beyond this, and beyond max_kept_tokens (0.2 KB
// each at the very worst, with 20 alternatives: 1 GB), the oldest are forgotten early; the newest
// never.
constexpr size_t kMaxKept = 1024;

// Rejected without a cost model: a guess that keeps routers from hammering.
constexpr double kDefaultWaitSeconds = 1.0;

bool SameForRouters(const Load& a, const Load& b) {
  return a.incarnation == b.incarnation && a.running_requests == b.running_requests &&
         a.waiting_requests == b.waiting_requests && a.free_kv_blocks == b.free_kv_blocks &&
         a.queued_prefill_tokens == b.queued_prefill_tokens && a.draining == b.draining &&
         (a.cost.reach_tokens == 0) == (b.cost.reach_tokens == 0);  // believed or not
}

const char* Name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kError:
      return "error";
  }
  return "";
}

}  // namespace

EngineCore::EngineCore(const EngineOptions& options, PlanSink& sink, RequestTable& requests,
                       LoadBoard& board, LeaderMetrics& metrics)
    : stop_rule_(options.end_tokens),
      vocab_size_(options.vocab_size),
      max_kept_tokens_(options.max_kept_tokens),
      sink_(sink),
      requests_(requests),
      board_(board),
      metrics_(metrics),
      scheduler_(options.scheduler, options.prefix, stop_rule_),
      saved_costs_(options.saved_costs),
      keep_cost_(options.keep_cost) {
  if (options.warm_up_seconds > 0) {
    warm_up_.emplace(
        WarmUp::Options{.seconds = options.warm_up_seconds,
                        .max_num_batched_tokens = options.scheduler.max_num_batched_tokens,
                        .max_prompt_tokens = options.scheduler.max_model_len,
                        .vocab_size = options.vocab_size});
  }
}

void EngineCore::Submit(Request request, const std::shared_ptr<EventLog>& log, absl::Time now) {
  const int64_t prompt_tokens = request.prompt_tokens();
  const int64_t max_tokens = request.stopping.max_tokens;
  CHECK(prompt_tokens > 0 && max_tokens >= 0) << "request=" << request.id.ToString();
  if (absl::Status fits = scheduler_.pool().CheckFits(prompt_tokens, max_tokens); !fits.ok()) {
    return announcer_.Close(log, std::move(fits));
  }
  const absl::Status room = draining_      ? absl::UnavailableError("the leader drains")
                            : warming_up() ? absl::UnavailableError("the ranks are warming up")
                                           : scheduler_.pool().CheckRoom(prompt_tokens);
  if (!room.ok()) {
    metrics_.RequestRejected();
    LOG(INFO) << "request=" << request.id.ToString() << " event=rejected reason=\""
              << room.message() << "\"";
    announcer_.Append(
        log, RejectedEvent{.predicted_wait_seconds = std::max(kDefaultWaitSeconds, QueuedSeconds()),
                           .reason = std::string(room.message())});
    return announcer_.Close(log, absl::OkStatus());
  }
  const RequestId id = request.id;
  if (!requests_.Add(id, log)) {
    return announcer_.Close(log, absl::AlreadyExistsError(
                                     absl::StrCat("request ", id.ToString(), " is known already")));
  }
  Entry& entry = entries_[id];
  entry = {.sequence = nullptr,
           .log = log,
           .deadline = request.deadline,
           .detach_ttl = request.detach_ttl};
  WakeAt(entry.deadline);
  Sequence& sequence = scheduler_.pool().Enqueue(std::move(request));
  entry.sequence = &sequence;
  const int64_t cached_tokens = scheduler_.pool().CachedPromptTokens(sequence);
  const double wait = SecondsAhead(sequence);
  LOG(INFO) << "request=" << id.ToString() << " event=admitted prompt_tokens=" << prompt_tokens
            << " max_tokens=" << max_tokens << " cached_tokens=" << cached_tokens
            << " predicted_wait_seconds=" << wait;
  announcer_.Append(log, AdmittedEvent{.cached_tokens = static_cast<int32_t>(cached_tokens),
                                       .predicted_wait_seconds = wait});
  // The stream may have closed before the table knew the request.
  if (log->num_readers() == 0) ReaderLeft(id, now);
}

void EngineCore::Cancel(const RequestId& id, absl::Time now) {
  const auto it = entries_.find(id);
  if (it == entries_.end() || it->second.sequence == nullptr) return;
  Finish(id, FinishReason::kCancelled, absl::OkStatus(), now);
}

void EngineCore::ReaderLeft(const RequestId& id, absl::Time now) {
  const auto it = entries_.find(id);
  if (it == entries_.end() || it->second.log->num_readers() > 0) return;
  if (!it->second.detach_ttl) return Cancel(id, now);
  it->second.expiry = now + *it->second.detach_ttl;
  WakeAt(it->second.expiry);
}

void EngineCore::Drain(absl::Time deadline) {
  LOG(INFO) << "event=draining requests=" << entries_.size();
  draining_ = true;
  drain_deadline_ = std::min(drain_deadline_, deadline);
  WakeAt(drain_deadline_);
}

void EngineCore::Stop(const absl::Status& reason, absl::Time now) {
  draining_ = true;
  FailAll(reason, now);
  announcer_.TellReaders();
}

void EngineCore::FailAll(const absl::Status& reason, absl::Time now) {
  std::vector<RequestId> live;
  for (const auto& [id, entry] : entries_) {
    if (entry.sequence != nullptr) live.push_back(id);
  }
  for (const RequestId& id : live) Finish(id, FinishReason::kError, reason, now);
}

void EngineCore::Finish(const RequestId& id, FinishReason reason, const absl::Status& error,
                        absl::Time now) {
  Entry& entry = entries_.at(id);
  Sequence& sequence = *std::exchange(entry.sequence, nullptr);
  const FinishedEvent event = {.reason = reason,
                               .prompt_tokens = static_cast<int32_t>(sequence.prompt_tokens()),
                               .cached_tokens = static_cast<int32_t>(sequence.cached_prompt_tokens),
                               .completion_tokens = static_cast<int32_t>(sequence.output.size()),
                               .error = error};
  LOG(INFO) << "request=" << id.ToString() << " event=finished reason=" << Name(reason)
            << " completion_tokens=" << event.completion_tokens << (error.ok() ? "" : " error=\"")
            << error.message() << (error.ok() ? "" : "\"");
  const int64_t tokens_told = event.completion_tokens + sequence.prompt_logprobs_told - 1;
  if (sequence.id != 0) {  // it has started
    metrics_.PromptLookedUp(sequence.prompt_tokens(), sequence.cached_prompt_tokens);
  }
  const SequenceId sequence_id = sequence.id;
  const bool freed = scheduler_.End(sequence);  // `sequence` is gone, or waits for its plans
  metrics_.RequestFinished(reason);
  if (reason == FinishReason::kCancelled) {
    if (freed) {
      metrics_.CancelledBlocksFreed(absl::ZeroDuration());
    } else {
      cancelled_.emplace(sequence_id, now);
    }
  }
  const std::shared_ptr<EventLog> log = entry.log;
  entry.deadline = absl::InfiniteFuture();
  if (!entry.detach_ttl) {
    Forget(id);
  } else {
    entry.expiry = now + *entry.detach_ttl;
    WakeAt(entry.expiry);
    Keep(id, tokens_told);
  }
  announcer_.Append(log, event);
  announcer_.Close(log, absl::OkStatus());
}

void EngineCore::Forget(const RequestId& id) {
  entries_.erase(id);
  requests_.Remove(id);
}

void EngineCore::Keep(const RequestId& id, int64_t tokens) {
  kept_.push_back({id, tokens});
  kept_tokens_ += tokens;
  while (kept_.size() > kMaxKept || (kept_tokens_ > max_kept_tokens_ && kept_.size() > 1)) {
    Forget(kept_.front().id);
    kept_tokens_ -= kept_.front().tokens;
    kept_.pop_front();
  }
}

void EngineCore::GroupUp(uint64_t incarnation, const GroupFacts& facts) {
  CHECK(incarnation_ == 0) << "group " << incarnation << " up while " << incarnation_ << " is";
  incarnation_ = incarnation;
  scheduler_.GroupUp(facts.kv);
  cost_.GroupUp();
  if (std::exchange(hardware_, facts.hardware) == facts.hardware) return;
  const auto saved = std::ranges::find(saved_costs_, hardware_, &SavedCost::hardware);
  if (saved == saved_costs_.end()) return;
  LOG(INFO) << "event=cost_restored hardware=\"" << hardware_ << "\" " << ToString(saved->cost);
  cost_.Restore(saved->cost);
  warm_up_.reset();
  metrics_.CostFitted(cost_.known(), cost_.error());
}

void EngineCore::EndWarmUp() {
  cost_.Learn(warm_up_->samples());
  LOG(INFO) << "event=warmed_up seconds=" << warm_up_->seconds()
            << " samples=" << warm_up_->samples().size() << " error=" << cost_.error() << " "
            << ToString(cost_.coefficients());
  metrics_.WarmedUp(warm_up_->seconds());
  warm_up_.reset();
  TellCost();
}

void EngineCore::TellCost() {
  metrics_.CostFitted(cost_.known(), cost_.error());
  // What has seen no long history is not worth more than a warm-up.
  const CostCoefficients cost = cost_.coefficients();
  if (!keep_cost_ || hardware_.empty() || !cost_.checked() ||
      cost.reach_tokens < CostModel::kMinReach) {
    return;
  }
  keep_cost_({.hardware = hardware_, .cost = cost});
}

void EngineCore::GroupDown(uint64_t incarnation, const absl::Status& reason, absl::Time now) {
  if (incarnation != incarnation_) return;
  incarnation_ = 0;
  predicted_seconds_.clear();
  busy_since_.reset();
  cancelled_.clear();
  metrics_.RanksRestarted();
  if (warming_up() && !warm_up_->GroupDown(scheduler_)) {
    LOG(WARNING) << "event=warm_up_given_up attempts=" << WarmUp::kMaxAttempts;
    warm_up_.reset();
  }
  for (Sequence* sequence : scheduler_.GroupDown()) {
    const RequestId id = sequence->request.id;
    if (!sequence->output.empty()) {
      Finish(
          id, FinishReason::kError,
          absl::UnavailableError(absl::StrCat("the ranks were lost after ", sequence->output.size(),
                                              " tokens: ", std::string(reason.message()))),
          now);
    } else if (sequence->replays == 1) {
      Finish(
          id, FinishReason::kError,
          // Not UNAVAILABLE: the one retry is spent, and another group may be worth more than it.
          absl::AbortedError(absl::StrCat("the ranks were lost twice under this request: ",
                                          std::string(reason.message()))),
          now);
    } else {
      ++sequence->replays;
      metrics_.RequestReplayed();
      LOG(INFO) << "request=" << id.ToString() << " event=replayed";
    }
  }
}

void EngineCore::StepStuck(uint64_t incarnation) const {
  if (incarnation != incarnation_) return;
  for (const std::string& line : EngineReport(scheduler_)) {
    LOG(ERROR) << "event=engine_state " << line;
  }
}

void EngineCore::StepDone(uint64_t incarnation, const StepResult& result, absl::Time now) {
  if (incarnation != incarnation_) return;  // of ranks that were given up since
  absl::StatusOr<PlannedStep> step = scheduler_.Retire(result.step_id, result.failed_moves);
  if (!step.ok()) return sink_.Fail(incarnation, std::string(step.status().message()));
  const double predicted = predicted_seconds_.front();
  predicted_seconds_.pop_front();
  if (busy_since_) metrics_.Busy(now - *busy_since_, result.stage_seconds);
  busy_since_ = now;
  if (warming_up()) return warm_up_->StepDone(*step, result.seconds, scheduler_);
  if (!step->slices.empty()) metrics_.UnitDone(result.seconds, predicted);
  // Prompt logprobs take time that the model of costs knows nothing of.
  if (step->has_prefill && !step->has_prompt_logprobs && !step->has_moves) {
    cost_.Observe(step->shape, result.seconds);
    TellCost();
  }
  const absl::Status scored = CheckPromptLogprobs(*step, result, vocab_size_);
  if (!scored.ok()) return sink_.Fail(incarnation, std::string(scored.message()));
  for (const PlannedSlice& slice : step->slices) {
    if (slice.freed) {
      if (const auto cancelled = cancelled_.extract(slice.sequence_id); !cancelled.empty()) {
        metrics_.CancelledBlocksFreed(now - cancelled.mapped());
      }
    }
    if (slice.sequence != nullptr && slice.completes) ApplySlice(slice, result, now);
  }
}

void EngineCore::ApplySlice(const PlannedSlice& slice, const StepResult& result, absl::Time now) {
  Sequence& sequence = *slice.sequence;
  const RequestId id = sequence.request.id;
  auto same_sequence = [&sequence](const auto& s) { return s.sequence_id == sequence.id; };
  const auto error = std::find_if(result.errors.begin(), result.errors.end(), same_sequence);
  if (error != result.errors.end()) {
    return Finish(id, FinishReason::kError, absl::InternalError(error->message), now);
  }
  metrics_.RepeatedTokens(slice.repeated);
  if (slice.begin < sequence.prompt_tokens()) {
    metrics_.PrefillTokens(std::min(slice.count, sequence.prompt_tokens() - slice.begin));
    if (sequence.output.empty()) TellProgress(sequence);
    if (slice.prompt_logprobs > 0) TellPromptLogprobs(sequence, result);
  }
  if (!slice.sample) {
    if (sequence.prefill_only_done()) Finish(id, FinishReason::kLength, absl::OkStatus(), now);
    return;
  }
  const auto sampled = std::find_if(result.sampled.begin(), result.sampled.end(), same_sequence);
  if (sampled == result.sampled.end()) {
    return sink_.Fail(incarnation_, absl::StrCat("step ", result.step_id,
                                                 " brought no token for "
                                                 "sequence ",
                                                 sequence.id));
  }
  const TokenId token = sampled->token.token;
  if (token < 0 || token >= vocab_size_) {
    return sink_.Fail(incarnation_, absl::StrCat("step ", result.step_id, " sampled token ", token,
                                                 ", vocabulary ", vocab_size_));
  }
  AcceptToken(sequence, sampled->token, now);
}

void EngineCore::TellProgress(const Sequence& sequence) {
  // Rows that are run again after a preemption were told before.
  ProgressEvent progress = {.prompt_tokens = static_cast<int32_t>(sequence.prompt_tokens()),
                            .cached_tokens = static_cast<int32_t>(sequence.cached_prompt_tokens),
                            .processed_tokens = static_cast<int32_t>(sequence.most_processed),
                            .eta_seconds = std::nullopt};
  if (cost_.known()) progress.eta_seconds = SecondsAhead(sequence) + PrefillSeconds(sequence);
  announcer_.Append(entries_.at(sequence.request.id).log, progress);
}

void EngineCore::TellPromptLogprobs(Sequence& sequence, const StepResult& result) {
  const auto logprobs =
      std::find_if(result.prompt_logprobs.begin(), result.prompt_logprobs.end(),
                   [&](const auto& part) { return part.sequence_id == sequence.id; });
  CHECK(logprobs != result.prompt_logprobs.end()) << "sequence=" << sequence.id;  // was checked
  // A replay finds some told.
  for (PromptLogprobsEvent& event : SplitPromptLogprobs(*logprobs, sequence.prompt_logprobs_told)) {
    sequence.prompt_logprobs_told = event.begin + static_cast<int64_t>(event.tokens.size());
    announcer_.Append(entries_.at(sequence.request.id).log, std::move(event));
  }
}

void EngineCore::AcceptToken(Sequence& sequence, const GeneratedToken& token, absl::Time now) {
  const RequestId id = sequence.request.id;
  const StopRule::Verdict verdict =
      stop_rule_.Judge(sequence.request, sequence.output.size(), token.token);
  if (verdict != StopRule::Verdict::kEndToken) {
    if (sequence.output.empty()) {
      metrics_.FirstToken(now - sequence.request.arrival);
    } else {
      metrics_.NextToken(now - sequence.last_token_time);
    }
    sequence.last_token_time = now;
    sequence.output.push_back(token.token);
    announcer_.Append(entries_.at(id).log, TokensEvent{.tokens = {token}});
  }
  switch (verdict) {
    case StopRule::Verdict::kContinue:
      return;
    case StopRule::Verdict::kEndToken:
    case StopRule::Verdict::kStopToken:
      return Finish(id, FinishReason::kStop, absl::OkStatus(), now);
    case StopRule::Verdict::kLengthReached:
      return Finish(id, FinishReason::kLength, absl::OkStatus(), now);
  }
}

void EngineCore::Advance(absl::Time now) {
  if (now >= next_wake_) EndOverdue(now);
  if (warming_up() && incarnation_ != 0 && !warm_up_->Advance(scheduler_)) EndWarmUp();
  while (std::optional<StepPlan> plan = scheduler_.Next(cost_.step_coefficients())) {
    const PlannedStep& step = scheduler_.in_flight().back();
    std::optional<double> predicted;
    if (!step.has_prefill) {
      predicted = 0;  // decode: far below what a stalled rank is measured by
    } else if (!step.has_prompt_logprobs && !step.has_moves && cost_.Covers(step.shape)) {
      predicted = PredictSeconds(cost_.coefficients(), step.shape);
    }
    predicted_seconds_.push_back(predicted.value_or(0));
    sink_.Send(incarnation_, *std::move(plan), predicted);
    if (!busy_since_) busy_since_ = now;
  }
  if (scheduler_.in_flight().empty()) busy_since_.reset();
  announcer_.TellReaders();
  for (const Sequence* sequence : scheduler_.pool().TakePreempted()) {
    metrics_.Preempted();
    LOG(INFO) << "request=" << sequence->request.id.ToString()
              << " event=preempted processed_tokens=" << sequence->most_processed;
  }
  PublishLoad();
}

void EngineCore::EndOverdue(absl::Time now) {
  next_wake_ = absl::InfiniteFuture();
  std::vector<RequestId> overdue, expired;
  for (auto& [id, entry] : entries_) {
    if (entry.expiry <= now) {
      if (entry.log->num_readers() > 0) {
        entry.expiry = absl::InfiniteFuture();  // somebody came back; their leaving sets it again
      } else {
        expired.push_back(id);
        continue;
      }
    }
    if (entry.deadline <= now) {
      overdue.push_back(id);
      continue;
    }
    WakeAt(std::min(entry.deadline, entry.expiry));
  }
  for (const RequestId& id : overdue) {
    Finish(id, FinishReason::kError, absl::DeadlineExceededError("the request's deadline is over"),
           now);
  }
  for (const RequestId& id : expired) {
    Cancel(id, now);  // if it still runs
    std::erase_if(kept_, [this, &id](const Kept& kept) {
      if (kept.id == id) kept_tokens_ -= kept.tokens;
      return kept.id == id;
    });
    Forget(id);
  }
  if (drain_deadline_ <= now) {
    drain_deadline_ = absl::InfiniteFuture();
    FailAll(absl::UnavailableError("the leader drains and its deadline is over"), now);
  }
  WakeAt(drain_deadline_);
}

void EngineCore::WakeAt(absl::Time time) { next_wake_ = std::min(next_wake_, time); }

double EngineCore::PrefillSeconds(const Sequence& sequence) const {
  return PredictPrefillSeconds(cost_.coefficients(), sequence.processed_tokens,
                               sequence.prompt_tokens() - sequence.processed_tokens,
                               scheduler_.limits().max_num_batched_tokens);
}

double EngineCore::SecondsAhead(const Sequence& sequence) const {
  double seconds = 0;
  // A longer prompt ahead is passed by taking half of its steps: while this one's work is done, so
  // much of the other's is.
  const double own = PrefillSeconds(sequence);
  const SequencePool& pool = scheduler_.pool();
  for (const std::vector<Sequence*>* line : {&pool.running(), &pool.waiting()}) {
    for (const Sequence* ahead : *line) {
      if (ahead == &sequence) return seconds;
      seconds += std::min(PrefillSeconds(*ahead), own);
    }
  }
  return seconds;
}

double EngineCore::QueuedSeconds() const {
  double seconds = 0;
  for (const Sequence* s : scheduler_.pool().running()) seconds += PrefillSeconds(*s);
  for (const Sequence* s : scheduler_.pool().waiting()) seconds += PrefillSeconds(*s);
  return seconds;
}

void EngineCore::PublishLoad() {
  const SequencePool& pool = scheduler_.pool();
  metrics_.KvChanged(pool.cache());
  board_.prefixes().Publish(scheduler_.pool().cache().TakeChanges());
  Load load = {.kv_blocks = pool.cache().num_blocks(),
               .free_kv_blocks = std::max(pool.num_available(), 0),
               .draining = draining_,
               .cost = cost_.coefficients()};
  if (!warming_up()) {  // else not ready, and what runs is nobody's request
    load.incarnation = incarnation_;
    load.running_requests = static_cast<int32_t>(pool.running().size());
    load.waiting_requests = static_cast<int32_t>(pool.waiting().size());
    for (const std::vector<Sequence*>* line : {&pool.running(), &pool.waiting()}) {
      for (const Sequence* s : *line) {
        load.queued_prefill_tokens +=
            std::max<int64_t>(s->prompt_tokens() - s->processed_tokens, 0);
      }
    }
  }
  if (published_ && SameForRouters(*published_, load)) return;
  load.queued_seconds = QueuedSeconds();
  published_ = load;
  metrics_.LoadChanged(load);
  board_.Publish(load);
}

}  // namespace longhaul::worker::leader
