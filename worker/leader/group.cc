#include "worker/leader/group.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "worker/leader/rank_hardware.h"

namespace longhaul::worker::leader {
namespace {

// Commands: heartbeats, results and plans, each bounded by the ranks; far above what they can
// queue.
constexpr size_t kQueueCapacity = 16'384;
// Streams without a Register at the same time; more are refused.
constexpr size_t kMaxStrangers = 64;
// How often a rank that has not dialled yet is looked at, and one whose stream is open.
constexpr absl::Duration kStartingLook = absl::Milliseconds(50);
constexpr absl::Duration kRunningLook = absl::Seconds(1);
// This process was held up (stopped, or the machine asleep) if it looks this much later.
constexpr absl::Duration kHeldUp = absl::Milliseconds(500);
// After a stream ended: for the process to end by itself, so that its exit status can be told.
constexpr absl::Duration kExitGrace = absl::Milliseconds(500);
// For the line that a rank prints right after it said Started.
constexpr absl::Duration kReadyLineGrace = absl::Milliseconds(200);
constexpr absl::Duration kStopGrace = absl::Seconds(2);
// After a rank failed by itself: for the rank that it misses to be seen ending.
constexpr absl::Duration kBlameGrace = absl::Milliseconds(100);
// A group that was up this long starts its back-off anew.
constexpr absl::Duration kHealthyTime = absl::Seconds(30);

// A step that is sent does not wake the group thread: with limits below a second, as in tests, it
// looks often enough not to see them late.
absl::Duration LookPeriod(const GroupOptions& options) {
  const absl::Duration shortest =
      std::min(options.stall_floor, options.unpredicted_stall_limit) - options.stuck_lead;
  return std::clamp(shortest / 4, absl::Milliseconds(10), kRunningLook);
}

// Takes the same time whatever the difference, so that the time tells nothing about the secret.
bool SameSecret(const std::string& a, const std::string& b) {
  unsigned difference = a.size() == b.size() ? 0 : 1;
  for (size_t i = 0; i < a.size(); ++i) {
    difference |= static_cast<unsigned char>(a[i]) ^
                  static_cast<unsigned char>(b.empty() ? 0 : b[i % b.size()]);
  }
  return difference == 0;
}

}  // namespace

Group::Group(GroupOptions options, RankLauncher& launcher, const Clock& clock,
             std::function<void(absl::Status)> on_first_start)
    : options_(std::move(options)),
      launcher_(launcher),
      clock_(clock),
      on_first_start_(std::move(on_first_start)),
      look_(LookPeriod(options_)),
      steps_(options_.shape, clock),
      incarnation_(options_.first_incarnation),
      rendezvous_(options_.shape.num_ranks()),
      backoff_(options_.min_backoff),
      commands_(kQueueCapacity),
      thread_([this] { Run(); }) {}

Group::~Group() { Stop(); }

void Group::Start(std::string control_address, GroupListener& listener) {
  CHECK(commands_.Push(StartCommand{std::move(control_address), &listener}).ok());
}

void Group::OnRankEvent(const std::shared_ptr<RankLink>& link, RankEvent event) {
  Command command;
  if (auto* result = std::get_if<StepResult>(&event)) {
    const absl::Status taken = steps_.Acknowledge(*link, std::move(*result));
    if (taken.ok()) return;
    command = RefusedCommand{link, std::string(taken.message())};
  } else {
    command = LinkCommand{link, std::move(event)};
  }
  // Full only if somebody floods the control port; their stream ends.
  const absl::Status pushed = commands_.Push(std::move(command));
  if (!pushed.ok()) link->Close(pushed);
}

void Group::Send(uint64_t incarnation, StepPlan plan, std::optional<double> predicted_seconds) {
  steps_.Send(incarnation, std::move(plan), predicted_seconds);
}

void Group::Fail(uint64_t incarnation, std::string reason) {
  const absl::Status pushed = commands_.Push(FailCommand{incarnation, std::move(reason)});
  CHECK(pushed.ok() || absl::IsCancelled(pushed)) << pushed;
}

void Group::Stop() {
  commands_.Close();
  if (thread_.joinable()) thread_.join();
}

void Group::Run() {
  while (true) {
    std::optional<Command> command = commands_.Pop(NextTimer());
    if (commands_.closed()) break;  // what waits is void
    if (command) Handle(*std::move(command));
    CheckTimers();
  }
  steps_.Close();
  EndRanks("the leader is stopping", kStopGrace);
  for (const Stranger& stranger : strangers_) {
    stranger.link->Close(absl::UnavailableError("the leader is stopping"));
  }
}

void Group::Handle(Command command) {
  if (auto* start = std::get_if<StartCommand>(&command)) {
    control_address_ = std::move(start->control_address);
    listener_ = start->listener;
    LaunchRanks();
  } else if (auto* link = std::get_if<LinkCommand>(&command)) {
    HandleLink(link->link, std::move(link->event));
  } else if (auto* refused = std::get_if<RefusedCommand>(&command)) {
    Refuse(refused->link, refused->why);
  } else if (auto* fail = std::get_if<FailCommand>(&command)) {
    if (state_ == State::kUp && fail->incarnation == incarnation_) Lose(-1, fail->reason);
  }
}

int32_t Group::RankOf(const std::shared_ptr<RankLink>& link) const {
  for (size_t i = 0; i < ranks_.size(); ++i) {
    if (ranks_[i].link == link) return static_cast<int32_t>(i);
  }
  return -1;
}

void Group::LaunchRanks() {
  state_ = State::kStarting;
  launched_at_ = clock_.Now();
  rendezvous_ = RendezvousRelay(world_size());
  ranks_.clear();
  ranks_.resize(world_size());
  for (int32_t i = 0; i < world_size(); ++i) {
    ranks_[i].last_heard = clock_.Now();
    absl::StatusOr<std::unique_ptr<RankProcess>> process = launcher_.Launch(i, control_address_);
    if (!process.ok()) return Lose(i, process.status().ToString());
    ranks_[i].process = *std::move(process);
    LOG(INFO) << "event=rank_launched rank=" << i << " incarnation=" << incarnation_
              << " process=\"" << ranks_[i].process->Name() << "\"";
  }
}

void Group::HandleLink(const std::shared_ptr<RankLink>& link, RankEvent event) {
  const int32_t index = RankOf(link);
  if (index < 0) {
    if (std::holds_alternative<RankConnected>(event)) {
      if (strangers_.size() >= kMaxStrangers) {
        return link->Close(absl::ResourceExhaustedError("too many streams without a rank"));
      }
      strangers_.push_back({link, clock_.Now()});
    } else if (const auto* registration = std::get_if<RankRegistration>(&event)) {
      std::erase_if(strangers_, [&link](const Stranger& s) { return s.link == link; });
      Register(link, *registration);
    } else {
      // The end of one that was refused or given up, or a rank that does not introduce itself.
      std::erase_if(strangers_, [&link](const Stranger& s) { return s.link == link; });
      link->Close(absl::FailedPreconditionError("the first message must be Register"));
    }
    return;
  }
  Rank& rank = ranks_[index];
  rank.last_heard = clock_.Now();
  if (const auto* started = std::get_if<RankStarted>(&event)) {
    RankStartedUp(rank, *started);
  } else if (const auto* entry = std::get_if<RendezvousEntry>(&event)) {
    Relay(index, *entry);
  } else if (const auto* failure = std::get_if<RankFailure>(&event)) {
    Lose(index, failure->message, kExitGrace);
  } else if (std::holds_alternative<RankClosed>(event)) {
    Lose(index, "its control stream ended", kExitGrace);
  } else if (std::holds_alternative<RankRegistration>(event)) {
    Lose(index, "it registered twice");
  }
}

void Group::Refuse(const std::shared_ptr<RankLink>& link, const std::string& why) {
  const int32_t index = RankOf(link);
  if (index >= 0) return Lose(index, why);
  // One that was given up, or a stranger.
  std::erase_if(strangers_, [&link](const Stranger& s) { return s.link == link; });
  link->Close(absl::FailedPreconditionError(why));
}

void Group::Register(const std::shared_ptr<RankLink>& link, const RankRegistration& r) {
  if (!SameSecret(options_.secret, r.secret)) {
    LOG(WARNING) << "event=rank_refused why=secret host=" << r.host << " pid=" << r.pid;
    return link->Close(absl::UnauthenticatedError("the group's secret is another one"));
  }
  std::string why;
  if (r.protocol_version != kProtocolVersion) {
    why = absl::StrCat("it speaks protocol version ", r.protocol_version, ", the leader ",
                       kProtocolVersion);
  } else if (!r.model_digest || *r.model_digest != options_.model_digest) {
    why = absl::StrCat("its model has digest ",
                       r.model_digest ? r.model_digest->ToString() : "of a wrong length",
                       ", the leader's ", options_.model_digest.ToString());
  }
  const bool known = state_ == State::kStarting && r.rank < ranks_.size();
  if (why.empty() && (!known || ranks_[r.rank].link != nullptr)) {
    // A stranger with the secret: a rank of an earlier incarnation, say. The group goes on.
    const absl::Status refusal = absl::FailedPreconditionError(
        absl::StrCat("rank ", r.rank, " of ", world_size(), " is taken or not expected now"));
    LOG(WARNING) << "event=rank_refused why=\"" << refusal.message() << "\" host=" << r.host
                 << " pid=" << r.pid;
    return link->Close(refusal);
  }
  if (!why.empty()) {
    link->Close(absl::FailedPreconditionError(why));
    if (known && ranks_[r.rank].link == nullptr) return Lose(static_cast<int32_t>(r.rank), why);
    LOG(WARNING) << "event=rank_refused why=\"" << why << "\"";
    return;
  }
  Rank& rank = ranks_[r.rank];
  rank.link = link;
  rank.kv_capacity_blocks = r.kv_capacity_blocks;
  rank.host_slots = r.host_slots;
  rank.disk_slots = r.disk_slots;
  rank.kv_limit_blocks = std::max(r.kv_capacity_blocks, r.kv_limit_blocks);
  rank.hardware = r.hardware;
  rank.last_heard = clock_.Now();
  LOG(INFO) << "event=rank_registered rank=" << r.rank << " incarnation=" << incarnation_
            << " host=" << r.host << " pid=" << r.pid
            << " kv_capacity_blocks=" << r.kv_capacity_blocks;
  for (const auto& [key, value] : rendezvous_.entries()) link->SendRendezvous({key, value});
  const bool all = std::all_of(ranks_.begin(), ranks_.end(),
                               [](const Rank& other) { return other.link != nullptr; });
  if (all) StartRegisteredRanks();
}

void Group::StartRegisteredRanks() {
  // What routers were told of the group's size stays true for the leader's life.
  const auto capacity_of = [this](const Rank& rank) {
    return was_up_ ? rank.kv_limit_blocks : rank.kv_capacity_blocks;
  };
  const auto smallest = std::min_element(
      ranks_.begin(), ranks_.end(),
      [&](const Rank& a, const Rank& b) { return capacity_of(a) < capacity_of(b); });
  const int64_t capacity = std::min<int64_t>(capacity_of(*smallest), INT32_MAX);
  const int64_t needed = was_up_ ? kv_blocks_.load() : 1;
  if (capacity < needed) {
    return Lose(static_cast<int32_t>(smallest - ranks_.begin()),
                absl::StrCat("its memory holds ", capacity, " KV blocks, needed are ", needed,
                             " (--kv-cache-gib)"));
  }
  if (!was_up_) kv_blocks_ = static_cast<int32_t>(capacity);
  const auto least = [this](int64_t Rank::*slots) {
    int64_t count = INT32_MAX;
    for (const Rank& rank : ranks_) count = std::min(count, std::max<int64_t>(rank.*slots, 0));
    return static_cast<int32_t>(count);
  };
  const int32_t disk_slots = least(&Rank::disk_slots);
  facts_.kv = {.blocks = kv_blocks_,
               .host_slots = least(&Rank::host_slots),
               .disk_slots = disk_slots,
               .disk_kept = was_up_ && disk_slots == facts_.kv.disk_slots};
  std::vector<std::string> hardware;
  for (const Rank& rank : ranks_) hardware.push_back(rank.hardware);
  facts_.hardware = GroupHardware(hardware);
  for (int32_t i = 0; i < world_size(); ++i) {
    const GroupShape::Layers layers = options_.shape.LayersOf(i);
    ranks_[i].link->SendStart({.incarnation = incarnation_,
                               .tensor_parallel_size = options_.shape.tensor_parallel_size(),
                               .pipeline_parallel_size = options_.shape.pipeline_parallel_size(),
                               .layer_begin = layers.begin,
                               .layer_end = layers.end,
                               .kv_blocks = kv_blocks_,
                               .host_slots = facts_.kv.host_slots,
                               .disk_slots = facts_.kv.disk_slots});
  }
}

void Group::RankStartedUp(Rank& rank, const RankStarted& started) {
  rank.started = true;
  const bool all =
      std::all_of(ranks_.begin(), ranks_.end(), [](const Rank& r) { return r.started; });
  if (!all || state_ != State::kStarting) return;
  for (const Rank& r : ranks_) {
    LOG(INFO) << "event=rank_ready incarnation=" << incarnation_ << " says=\""
              << r.process->ReadyLine(clock_.Now() + kReadyLineGrace) << "\"";
  }
  state_ = State::kUp;
  up_since_ = clock_.Now();
  stuck_step_ = 0;
  LOG(INFO) << "event=group_up incarnation=" << incarnation_ << " ranks=" << world_size()
            << " kv_blocks=" << kv_blocks_ << " host_slots=" << facts_.kv.host_slots
            << " disk_slots=" << facts_.kv.disk_slots << " load_seconds=" << started.load_seconds
            << " weight_bytes=" << started.weight_bytes << " kv_bytes=" << started.kv_bytes
            << " hardware=\"" << facts_.hardware << "\"";
  std::vector<std::shared_ptr<RankLink>> links;
  for (const Rank& r : ranks_) links.push_back(r.link);
  steps_.Open(incarnation_, std::move(links), *listener_);
  listener_->OnGroupUp(incarnation_, facts_);
  if (!std::exchange(was_up_, true)) on_first_start_(absl::OkStatus());
}

void Group::Relay(int32_t rank, const RendezvousEntry& entry) {
  const absl::Status added = rendezvous_.Add(entry);
  if (!added.ok()) return Lose(rank, added.ToString());
  for (const Rank& each : ranks_) {
    if (each.link != nullptr) each.link->SendRendezvous(entry);
  }
}

std::string Group::Explain(int32_t rank, const std::string& why, absl::Duration exit_grace) {
  std::string reason = rank < 0 ? why : absl::StrCat("rank ", rank, ": ", why);
  if (rank >= 0 && ranks_[rank].process != nullptr) {
    RankProcess& process = *ranks_[rank].process;
    const std::optional<std::string> exit = process.Wait(clock_.Now() + exit_grace);
    reason = absl::StrCat("rank ", rank, " (", process.Name(), "): ", why,
                          exit ? absl::StrCat("; ", *exit) : "");
  }
  // Whoever misses a rank that is gone may tell so before that rank's end is seen.
  const absl::Time deadline = clock_.Now() + std::min(exit_grace, kBlameGrace);
  for (int32_t i = 0; i < static_cast<int32_t>(ranks_.size()); ++i) {
    if (i == rank || ranks_[i].process == nullptr) continue;
    const std::optional<std::string> exit = ranks_[i].process->Wait(deadline);
    if (exit) absl::StrAppend(&reason, "; rank ", i, " (", ranks_[i].process->Name(), "): ", *exit);
  }
  return reason;
}

std::string Group::Laggards(const StepsInFlight::Head& head) {
  std::string names;
  for (size_t i = 0; i < head.acknowledged.size(); ++i) {
    if (head.acknowledged[i]) continue;
    absl::StrAppend(&names, names.empty() ? "" : ", ", "rank ", i);
  }
  return names;
}

void Group::Lose(int32_t rank, const std::string& why, absl::Duration exit_grace) {
  const std::string reason = Explain(rank, why, exit_grace);
  LOG(ERROR) << "event=group_lost incarnation=" << incarnation_
             << " steps_in_flight=" << steps_.size() << " why=\"" << reason << "\"";
  const bool was_up_now = state_ == State::kUp;
  steps_.Close();
  if (was_up_now) listener_->OnGroupDown(incarnation_, absl::UnavailableError(reason));
  EndRanks(reason, absl::ZeroDuration());
  if (!was_up_) {
    state_ = State::kFailed;
    return on_first_start_(absl::UnavailableError(reason));
  }
  ++incarnation_;
  if (was_up_now && clock_.Now() - up_since_ > kHealthyTime) backoff_ = options_.min_backoff;
  state_ = State::kBackingOff;
  restart_at_ = clock_.Now() + backoff_;
  LOG(INFO) << "event=group_restarts incarnation=" << incarnation_ << " in=" << backoff_;
  backoff_ = std::min(2 * backoff_, options_.max_backoff);
}

void Group::EndRanks(const std::string& reason, absl::Duration grace) {
  for (const Rank& rank : ranks_) {
    if (rank.link == nullptr) continue;
    if (grace > absl::ZeroDuration()) {  // nothing is wrong: the stream ends in order
      rank.link->Close(absl::OkStatus());
      continue;
    }
    rank.link->SendAbort(reason);
    rank.link->Close(absl::AbortedError(reason));
  }
  for (size_t i = 0; i < ranks_.size(); ++i) {
    if (ranks_[i].process == nullptr) continue;
    const std::string exit = ranks_[i].process->Stop(grace);
    LOG(INFO) << "event=rank_ended rank=" << i << " process=\"" << ranks_[i].process->Name()
              << "\" how=\"" << exit << "\"";
  }
  ranks_.clear();
}

void Group::ForgiveLostTime(absl::Time now) {
  const absl::Duration lost = now - last_look_ - kRunningLook;
  last_look_ = now;
  if (lost < kHeldUp || ranks_.empty()) return;
  LOG(WARNING) << "event=held_up seconds=" << absl::ToDoubleSeconds(lost);
  for (Rank& rank : ranks_) rank.last_heard = std::min(rank.last_heard + lost, now);
  launched_at_ = std::min(launched_at_ + lost, now);
  steps_.Forgive(lost, now);
}

void Group::CheckTimers() {
  const absl::Time now = clock_.Now();
  for (size_t i = 0; i < ranks_.size(); ++i) {
    absl::Time& last_heard = ranks_[i].last_heard;
    last_heard = std::max(last_heard, steps_.last_answer(static_cast<int32_t>(i)));
  }
  ForgiveLostTime(now);
  std::erase_if(strangers_, [this, now](const Stranger& stranger) {
    if (now < stranger.since + options_.register_limit) return false;
    stranger.link->Close(absl::DeadlineExceededError("no Register came"));
    return true;
  });
  if (state_ == State::kBackingOff && now >= restart_at_) LaunchRanks();
  if (state_ != State::kStarting && state_ != State::kUp) return;
  for (int32_t i = 0; i < static_cast<int32_t>(ranks_.size()); ++i) {
    Rank& rank = ranks_[i];
    if (rank.process->Wait(absl::InfinitePast())) {
      return Lose(i, rank.link == nullptr
                         ? "it ended before it registered; its own message is above"
                         : "its process ended");
    }
    const absl::Duration limit =
        rank.link == nullptr ? options_.register_limit : options_.silence_limit;
    if (now - rank.last_heard >= limit) {
      return Lose(i, absl::StrCat("nothing was heard from it for ",
                                  absl::ToDoubleSeconds(now - rank.last_heard), " s"));
    }
  }
  if (state_ == State::kStarting && now - launched_at_ >= options_.load_limit) {
    return Lose(
        -1, absl::StrCat("the ranks were not ready ", absl::ToDoubleSeconds(options_.load_limit),
                         " s after their launch"));
  }
  const std::optional<StepsInFlight::Head> head = steps_.head();
  if (!head) return;
  const absl::Time deadline = DeadlineOf(*head);
  if (head->step_id != stuck_step_ && now >= deadline - options_.stuck_lead) TellStuck(*head, now);
  if (now >= deadline) {
    // Ranks that wait for the one that stalls have not acknowledged either.
    Lose(world_size() == 1 ? 0 : -1,
         absl::StrCat("stalled: step ", head->step_id, " takes ",
                      absl::ToDoubleSeconds(now - head->since), " s, predicted ",
                      head->predicted_seconds.value_or(0), " s; not done by ", Laggards(*head)));
  }
}

void Group::TellStuck(const StepsInFlight::Head& head, absl::Time now) {
  stuck_step_ = head.step_id;
  LOG(ERROR) << "event=step_stuck incarnation=" << incarnation_ << " step=" << head.step_id
             << " seconds=" << absl::ToDoubleSeconds(now - head.since)
             << " predicted_seconds=" << head.predicted_seconds.value_or(0)
             << " steps_in_flight=" << steps_.size() << " not_done_by=\"" << Laggards(head) << "\"";
  for (size_t i = 0; i < ranks_.size(); ++i) {
    if (!head.acknowledged[i]) ranks_[i].link->SendDumpStacks();
  }
  listener_->OnStepStuck(incarnation_);
}

absl::Time Group::DeadlineOf(const StepsInFlight::Head& head) const {
  if (!head.predicted_seconds) return head.since + options_.unpredicted_stall_limit;
  return head.since + std::max(options_.stall_floor,
                               absl::Seconds(options_.stall_factor * *head.predicted_seconds));
}

absl::Time Group::NextTimer() const {
  absl::Time next = absl::InfiniteFuture();
  for (const Stranger& stranger : strangers_) {
    next = std::min(next, stranger.since + options_.register_limit);
  }
  if (state_ == State::kBackingOff) return std::min(next, restart_at_);
  if (state_ != State::kStarting && state_ != State::kUp) return next;
  next = std::min(next, clock_.Now() + (state_ == State::kStarting ? kStartingLook : look_));
  if (const std::optional<StepsInFlight::Head> head = steps_.head()) {
    const bool told = head->step_id == stuck_step_;
    next = std::min(next, DeadlineOf(*head) - (told ? absl::ZeroDuration() : options_.stuck_lead));
  }
  for (const Rank& rank : ranks_) next = std::min(next, rank.last_heard + options_.silence_limit);
  return next;
}

}  // namespace longhaul::worker::leader
