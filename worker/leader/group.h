#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/queue.h"
#include "common/types.h"
#include "worker/group_shape.h"
#include "worker/leader/plan_sink.h"
#include "worker/leader/rank_launcher.h"
#include "worker/leader/rank_link.h"
#include "worker/leader/rendezvous_relay.h"
#include "worker/leader/steps_in_flight.h"

namespace longhaul::worker::leader {

struct GroupOptions {
  GroupShape shape = GroupShape(/*num_layers=*/1);
  Digest model_digest;
  std::string secret;
  uint64_t first_incarnation = 1;  // > 0; later ones count on

  // A rank silent this long is lost; ranks beat every second, and 5 s is promised.
  absl::Duration silence_limit = absl::Milliseconds(4500);
  // A step that takes longer than this and 3 x its prediction: its ranks are stalled. stuck_lead
  // before, engine state and stacks are logged.
  absl::Duration stuck_lead = absl::Seconds(2);
  absl::Duration stall_floor = absl::Seconds(30);
  double stall_factor = 3;
  // The same for a step that nothing observed predicts: the first large prefill on a slow machine.
  absl::Duration unpredicted_stall_limit = absl::Minutes(10);
  // From launch to Register, and from a stranger's connection to its Register.
  absl::Duration register_limit = absl::Seconds(60);
  // From the launch of the ranks to the last one's Started: weights are read and converted in it.
  absl::Duration load_limit = absl::Minutes(30);
  // Before a restart: doubles with each failure in a row.
  absl::Duration min_backoff = absl::Milliseconds(100);
  absl::Duration max_backoff = absl::Seconds(10);
};

// The life of the group's ranks: starts them, admits their streams, relays what their communicators
// tell each other, notices a lost or stalled one, says why in one line, ends the rest and starts
// all again. Plans and results go past it, through StepsInFlight.
//
// One thread owns all other state (group thread); everything public is thread-safe and returns at
// once. The listener and on_first_start are called from the group thread, but for the listener's
// OnStepDone. The thread sleeps until a message or a timer; with ranks up it wakes for their
// heartbeats, once a second each. Time in which it did not run itself (the process was stopped)
// counts against no rank.
//
// Until the ranks were up once, any failure is final: bad weights, bad configuration or too little
// memory do not go away by trying again. Later ones are retried with back-off, for ever.
class Group final : public PlanSink {
 public:
  // `launcher` and `clock` are borrowed. `on_first_start` is called once: OK when the ranks are up
  // for the first time, else why they cannot be.
  Group(GroupOptions options, RankLauncher& launcher, const Clock& clock,
        std::function<void(absl::Status)> on_first_start);
  // Stop, if it was not called.
  ~Group() override;

  // Launches the ranks, which dial `control_address`, and tells `listener` (borrowed) of their
  // life. Call once.
  void Start(std::string control_address, GroupListener& listener);
  // The handler of a ControlServer.
  void OnRankEvent(const std::shared_ptr<RankLink>& link, RankEvent event);

  void Send(uint64_t incarnation, StepPlan plan, std::optional<double> predicted_seconds) override;
  void Fail(uint64_t incarnation, std::string reason) override;

  // Blocks that every rank holds; 0 before the ranks were up once, constant after.
  int32_t kv_blocks() const { return kv_blocks_.load(); }

  // Ends the ranks and the thread; the listener hears nothing of it. Idempotent.
  void Stop();

 private:
  struct StartCommand {
    std::string control_address;
    GroupListener* listener;
  };
  struct LinkCommand {
    std::shared_ptr<RankLink> link;
    RankEvent event;
  };
  // An answer that StepsInFlight refused.
  struct RefusedCommand {
    std::shared_ptr<RankLink> link;
    std::string why;
  };
  struct FailCommand {
    uint64_t incarnation;
    std::string reason;
  };
  using Command = std::variant<StartCommand, LinkCommand, RefusedCommand, FailCommand>;

  enum class State { kIdle, kStarting, kUp, kBackingOff, kFailed };

  struct Rank {
    std::unique_ptr<RankProcess> process;
    std::shared_ptr<RankLink> link;  // null until registered
    bool started = false;
    int64_t kv_capacity_blocks = 0;
    int64_t host_slots = 0;
    int64_t disk_slots = 0;
    int64_t kv_limit_blocks = 0;
    std::string hardware;
    absl::Time last_heard;  // launch, then every message; of answers to steps, as of the last look
  };
  // A stream whose first message has not come.
  struct Stranger {
    std::shared_ptr<RankLink> link;
    absl::Time since;
  };
  void Run();
  void Handle(Command command);
  void HandleLink(const std::shared_ptr<RankLink>& link, RankEvent event);
  void Register(const std::shared_ptr<RankLink>& link, const RankRegistration& registration);
  void RankStartedUp(Rank& rank, const RankStarted& started);
  void Relay(int32_t rank, const RendezvousEntry& entry);
  void Refuse(const std::shared_ptr<RankLink>& link, const std::string& why);

  void LaunchRanks();
  void StartRegisteredRanks();
  // The group is over: tells the listener, ends every rank, plans the restart.
  // Waits `exit_grace` for a process that is about to end, so that its end can be told.
  void Lose(int32_t rank, const std::string& why, absl::Duration exit_grace = absl::ZeroDuration());
  // "rank 1 (pid 7): why; signal 9 (Killed)", and how others ended, too.
  std::string Explain(int32_t rank, const std::string& why, absl::Duration exit_grace);
  // The ranks that have not acknowledged the oldest step: "rank 0, rank 2".
  static std::string Laggards(const StepsInFlight::Head& head);
  void EndRanks(const std::string& reason, absl::Duration grace);
  void CheckTimers();
  // What ranks said while this process was held up may be on its way.
  void ForgiveLostTime(absl::Time now);
  // The oldest step takes so long that whoever looks into it later will want to know more.
  void TellStuck(const StepsInFlight::Head& head, absl::Time now);
  absl::Time NextTimer() const;
  // Until when it may take.
  absl::Time DeadlineOf(const StepsInFlight::Head& head) const;

  int32_t world_size() const { return options_.shape.num_ranks(); }
  // Which rank owns the link; -1 if none.
  int32_t RankOf(const std::shared_ptr<RankLink>& link) const;

  const GroupOptions options_;
  RankLauncher& launcher_;
  const Clock& clock_;
  const std::function<void(absl::Status)> on_first_start_;
  // How often ranks that are up are looked at.
  const absl::Duration look_;
  StepsInFlight steps_;

  // Group thread only.
  State state_ = State::kIdle;
  GroupListener* listener_ = nullptr;  // set by Start
  std::string control_address_;
  uint64_t incarnation_;
  std::vector<Rank> ranks_;     // [world_size]
  RendezvousRelay rendezvous_;  // of this incarnation
  std::vector<Stranger> strangers_;
  absl::Time launched_at_;  // the ranks that are starting or up
  StepId stuck_step_ = 0;   // that this was told of; 0 = none
  bool was_up_ = false;
  absl::Duration backoff_;
  absl::Time up_since_;
  absl::Time restart_at_;
  absl::Time last_look_ = absl::InfiniteFuture();  // at the timers

  GroupFacts facts_;  // of the ranks that are starting or up

  std::atomic<int32_t> kv_blocks_ = 0;  // written by the group thread
  BoundedQueue<Command> commands_;
  std::thread thread_;
};

}  // namespace longhaul::worker::leader
