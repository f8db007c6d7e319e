#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "common/mutex.h"
#include "common/types.h"
#include "worker/leader/rank_launcher.h"
#include "worker/step_plan.h"

namespace longhaul::testing {

// A small real rank: speaks rank.proto over gRPC, keeps each sequence's position and block table,
// and samples the last token of a slice plus one. The logprob of the prompt token at position p is
// -p, its n-th alternative token n with -n. Can be told to misbehave. Thread-safe.
class FakeRank {
 public:
  using Entries = std::vector<std::pair<std::string, std::string>>;  // key, value
  struct Options {
    std::string secret = "secret";
    Digest model_digest = {1, 2};
    uint32_t protocol_version = kProtocolVersion;
    uint32_t rank = 0;
    int64_t kv_capacity_blocks = 1000;
    int64_t kv_limit_blocks = 0;  // 0 = the capacity
    uint64_t host_slots = 0;
    uint64_t disk_slots = 0;
    int32_t vocab_size = 1000;
    absl::Duration step_time;  // each step takes this long
    std::string hardware = "fake, 1 thread";
    double seconds_per_token = 1e-6;  // reported, for the leader's cost model
    std::string fail_start;           // not empty: RankFailed with this message instead of Started
    bool samples = true;              // false: another rank of the group does
    absl::Duration register_delay;    // before it registers
    Entries rendezvous;               // told right after it registered
  };

  // Dials `control_address` and registers, from threads of its own.
  FakeRank(const Options& options, const std::string& control_address);
  ~FakeRank();  // Die

  // The process is gone: its stream breaks. Idempotent.
  void Die() EXCLUDES(mutex_);
  // Hangs: no heartbeat, no answer, the stream stays open.
  void Freeze() EXCLUDES(mutex_);
  // Plans are taken and not executed; heartbeats go on.
  void Stall() EXCLUDES(mutex_);
  // From now on executes what it holds and what comes.
  void Resume() EXCLUDES(mutex_);
  // The next sequence that would sample a token fails with this message instead.
  void FailNextSequence(const std::string& message) EXCLUDES(mutex_);
  // The next sample is this token.
  void SampleNext(TokenId token) EXCLUDES(mutex_);

  std::vector<worker::StepPlan> plans() const EXCLUDES(mutex_);
  // Sequences it holds state of.
  size_t num_sequences() const EXCLUDES(mutex_);
  // What the leader did that a rank must not see: gaps, unknown sequences, short tables.
  std::vector<std::string> violations() const EXCLUDES(mutex_);

  // Slots in host memory and on disk that the leader's Start named; 0 and 0 before.
  std::pair<uint32_t, uint32_t> slots() const EXCLUDES(mutex_);

  // Rendezvous entries that the leader relayed so far; waits for `count`, at most 10 s.
  Entries WaitForEntries(size_t count) const EXCLUDES(mutex_);
  bool WaitForPlans(size_t count, absl::Time deadline) const EXCLUDES(mutex_);
  // How often the leader asked what it does.
  int stack_dumps() const EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    return stack_dumps_;
  }
  // True once the stream is over, with its gRPC status text ("" for OK).
  bool WaitForEnd(absl::Time deadline) const EXCLUDES(mutex_);
  std::string end() const EXCLUDES(mutex_);

 private:
  class Stream;
  struct SequenceState {
    int64_t position = 0;
    int64_t prompt_tokens = 0;
    std::optional<int32_t> prompt_logprobs;
    std::vector<BlockId> table;
  };

  void Read() EXCLUDES(mutex_);
  void Beat() EXCLUDES(mutex_);
  void Execute() EXCLUDES(mutex_);
  void ScorePrompt(const worker::Slice& slice, const SequenceState& state,
                   worker::StepResult& result) REQUIRES(mutex_);
  worker::StepResult ExecutePlan(const worker::StepPlan& plan) REQUIRES(mutex_);
  void Check(bool condition, const std::string& what) REQUIRES(mutex_);

  const Options options_;
  const std::unique_ptr<Stream> stream_;

  mutable Mutex mutex_;
  mutable CondVar changed_;
  bool dead_ GUARDED_BY(mutex_) = false;
  bool frozen_ GUARDED_BY(mutex_) = false;
  bool stalled_ GUARDED_BY(mutex_) = false;
  bool ended_ GUARDED_BY(mutex_) = false;
  std::string end_ GUARDED_BY(mutex_);
  std::string fail_next_ GUARDED_BY(mutex_);
  std::optional<TokenId> sample_next_ GUARDED_BY(mutex_);
  int stack_dumps_ GUARDED_BY(mutex_) = 0;
  std::vector<worker::StepPlan> plans_ GUARDED_BY(mutex_);
  Entries entries_ GUARDED_BY(mutex_);
  std::pair<uint32_t, uint32_t> slots_ GUARDED_BY(mutex_) = {0, 0};
  size_t executed_ GUARDED_BY(mutex_) = 0;
  std::map<SequenceId, SequenceState> sequences_ GUARDED_BY(mutex_);
  std::vector<std::string> violations_ GUARDED_BY(mutex_);

  std::thread reader_, beater_, executor_;
};

// Launches FakeRanks in this process.
class FakeRankLauncher final : public worker::leader::RankLauncher {
 public:
  absl::StatusOr<std::unique_ptr<worker::leader::RankProcess>> Launch(
      int32_t rank, const std::string& control_address) override EXCLUDES(mutex_);

  // For the launches to come.
  void SetOptions(const FakeRank::Options& options) EXCLUDES(mutex_);
  // The same for one rank; its options are not the others' from now on.
  void SetOptionsOf(int32_t rank, const FakeRank::Options& options) EXCLUDES(mutex_);
  // The newest rank; waits for the `launches`-th launch.
  std::shared_ptr<FakeRank> WaitForLaunch(size_t launches) EXCLUDES(mutex_);
  size_t launches() const EXCLUDES(mutex_);
  // The newest with this number, which was launched.
  std::shared_ptr<FakeRank> Newest(int32_t rank) const EXCLUDES(mutex_);

 private:
  mutable Mutex mutex_;
  CondVar changed_;
  FakeRank::Options options_ GUARDED_BY(mutex_);
  std::map<int32_t, FakeRank::Options> options_of_ GUARDED_BY(mutex_);
  std::map<int32_t, std::shared_ptr<FakeRank>> newest_ GUARDED_BY(mutex_);
  std::vector<std::shared_ptr<FakeRank>> ranks_ GUARDED_BY(mutex_);
};

}  // namespace longhaul::testing
