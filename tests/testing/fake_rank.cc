#include "tests/testing/fake_rank.h"

#include <grpcpp/grpcpp.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/logging.h"
#include "longhaul/v1/rank.grpc.pb.h"
#include "worker/step_plan_wire.h"

namespace longhaul::testing {

using worker::Slice;
using worker::StepPlan;
using worker::StepResult;
using worker::Unit;

// The wire: one reader, writers one after another.
class FakeRank::Stream {
 public:
  explicit Stream(const std::string& address)
      : stub_(v1::Rank::NewStub(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()))) {
    context_.set_wait_for_ready(true);
    stream_ = stub_->Control(&context_);
  }
  void Write(const v1::RankMessage& message) EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    stream_->Write(message);  // a broken stream shows in Read
  }
  bool Read(v1::LeaderMessage* message) { return stream_->Read(message); }
  std::string Finish() {
    const grpc::Status status = stream_->Finish();
    return status.ok() ? "" : absl::StrCat(status.error_code(), " ", status.error_message());
  }
  void Cancel() { context_.TryCancel(); }

 private:
  const std::unique_ptr<v1::Rank::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::RankMessage, v1::LeaderMessage>> stream_;
  Mutex mutex_;
};

FakeRank::FakeRank(const Options& options, const std::string& control_address)
    : options_(options), stream_(std::make_unique<Stream>(control_address)) {
  reader_ = std::thread([this] { Read(); });
  beater_ = std::thread([this] { Beat(); });
  executor_ = std::thread([this] { Execute(); });
}

FakeRank::~FakeRank() {
  Die();
  reader_.join();
  beater_.join();
  executor_.join();
}

void FakeRank::Die() {
  {
    MutexLock lock(mutex_);
    dead_ = true;
  }
  stream_->Cancel();
  changed_.SignalAll();
}

void FakeRank::Freeze() {
  MutexLock lock(mutex_);
  frozen_ = stalled_ = true;
}

void FakeRank::Stall() {
  MutexLock lock(mutex_);
  stalled_ = true;
}

void FakeRank::Resume() {
  {
    MutexLock lock(mutex_);
    frozen_ = stalled_ = false;
  }
  changed_.SignalAll();
}

void FakeRank::FailNextSequence(const std::string& message) {
  MutexLock lock(mutex_);
  fail_next_ = message;
}

void FakeRank::SampleNext(TokenId token) {
  MutexLock lock(mutex_);
  sample_next_ = token;
}

std::vector<StepPlan> FakeRank::plans() const {
  MutexLock lock(mutex_);
  return plans_;
}

size_t FakeRank::num_sequences() const {
  MutexLock lock(mutex_);
  return sequences_.size();
}

std::vector<std::string> FakeRank::violations() const {
  MutexLock lock(mutex_);
  return violations_;
}

FakeRank::Entries FakeRank::WaitForEntries(size_t count) const {
  const absl::Time deadline = absl::Now() + absl::Seconds(10);
  MutexLock lock(mutex_);
  while (entries_.size() < count && absl::Now() < deadline) changed_.WaitUntil(mutex_, deadline);
  return entries_;
}

bool FakeRank::WaitForPlans(size_t count, absl::Time deadline) const {
  MutexLock lock(mutex_);
  while (plans_.size() < count) {
    if (!changed_.WaitUntil(mutex_, deadline) && plans_.size() < count) return false;
  }
  return true;
}

bool FakeRank::WaitForEnd(absl::Time deadline) const {
  MutexLock lock(mutex_);
  while (!ended_) {
    if (!changed_.WaitUntil(mutex_, deadline) && !ended_) return false;
  }
  return true;
}

std::string FakeRank::end() const {
  MutexLock lock(mutex_);
  return end_;
}

std::pair<uint32_t, uint32_t> FakeRank::slots() const {
  MutexLock lock(mutex_);
  return slots_;
}

void FakeRank::Read() {
  absl::SleepFor(options_.register_delay);
  v1::RankMessage registration;
  v1::Register* proto = registration.mutable_register_();
  proto->set_secret(options_.secret);
  proto->set_protocol_version(options_.protocol_version);
  proto->set_rank(options_.rank);
  proto->set_model_digest(options_.model_digest.ToBytes());
  proto->set_kv_capacity_blocks(options_.kv_capacity_blocks);
  proto->set_kv_limit_blocks(options_.kv_limit_blocks);
  proto->set_host_slots(options_.host_slots);
  proto->set_disk_slots(options_.disk_slots);
  proto->set_host("fake");
  proto->set_hardware(options_.hardware);
  stream_->Write(registration);
  for (const auto& [key, value] : options_.rendezvous) {
    v1::RankMessage entry;
    entry.mutable_rendezvous()->set_key(key);
    entry.mutable_rendezvous()->set_value(value);
    stream_->Write(entry);
  }
  v1::LeaderMessage message;
  while (stream_->Read(&message)) {
    if (message.has_start()) {
      {
        MutexLock lock(mutex_);
        slots_ = {message.start().host_slots(), message.start().disk_slots()};
      }
      v1::RankMessage answer;
      if (options_.fail_start.empty()) {
        answer.mutable_started()->set_load_seconds(0.001);
      } else {
        answer.mutable_failed()->set_message(options_.fail_start);
      }
      stream_->Write(answer);
    } else if (message.has_rendezvous()) {
      MutexLock lock(mutex_);
      entries_.emplace_back(message.rendezvous().key(), message.rendezvous().value());
      changed_.SignalAll();
    } else if (message.has_dump_stacks()) {
      MutexLock lock(mutex_);
      ++stack_dumps_;
    } else if (message.has_plan()) {
      absl::StatusOr<StepPlan> plan = worker::FromProto(message.plan());
      MutexLock lock(mutex_);
      Check(plan.ok(), absl::StrCat("plan: ", plan.status().ToString()));
      if (plan.ok()) plans_.push_back(*std::move(plan));
      changed_.SignalAll();
    }
  }
  std::string end = stream_->Finish();
  MutexLock lock(mutex_);
  ended_ = dead_ = true;
  end_ = std::move(end);
  changed_.SignalAll();
}

void FakeRank::Beat() {
  v1::RankMessage beat;
  beat.mutable_heartbeat();
  absl::Time next = absl::Now() + absl::Seconds(1);
  while (true) {
    {
      MutexLock lock(mutex_);
      while (!dead_ && absl::Now() < next) changed_.WaitUntil(mutex_, next);
      if (dead_) return;
      next += absl::Seconds(1);
      if (frozen_) continue;
    }
    stream_->Write(beat);
  }
}

void FakeRank::Execute() {
  while (true) {
    StepResult result;
    {
      MutexLock lock(mutex_);
      while (!dead_ && (stalled_ || executed_ == plans_.size())) changed_.Wait(mutex_);
      if (dead_) return;
      const absl::Time done = absl::Now() + options_.step_time;
      while (!dead_ && absl::Now() < done) changed_.WaitUntil(mutex_, done);
      if (dead_ || stalled_) continue;
      result = ExecutePlan(plans_[executed_]);
      ++executed_;
    }
    v1::RankMessage message;
    worker::ToProto(result, message.mutable_step_done());
    stream_->Write(message);
  }
}

StepResult FakeRank::ExecutePlan(const StepPlan& plan) {
  Check(plan.step_id == executed_ + 1, absl::StrCat("step ", plan.step_id));
  StepResult result;
  result.step_id = plan.step_id;
  for (const worker::SequenceStart& start : plan.starts) {
    const SequenceState state = {.position = static_cast<int64_t>(start.cached_prompt_ids.size()) +
                                             start.cached_output_tokens,
                                 .prompt_tokens = start.prompt_tokens,
                                 .prompt_logprobs = start.sampling.prompt_logprobs};
    Check(sequences_.emplace(start.sequence_id, state).second,
          absl::StrCat("sequence ", start.sequence_id, " started twice"));
  }
  for (const Unit& unit : plan.units) {
    for (const Slice& slice : unit.slices) {
      const auto it = sequences_.find(slice.sequence_id);
      Check(it != sequences_.end(), absl::StrCat("unknown sequence ", slice.sequence_id));
      if (it == sequences_.end()) continue;
      SequenceState& state = it->second;
      Check(slice.begin == state.position,
            absl::StrCat("slice begins at ", slice.begin, ", expected ", state.position));
      state.position += static_cast<int64_t>(slice.token_ids.size());
      Check(slice.first_table_entry == static_cast<int32_t>(state.table.size()) ||
                slice.new_block_ids.empty(),
            absl::StrCat("table entry ", slice.first_table_entry));
      state.table.insert(state.table.end(), slice.new_block_ids.begin(), slice.new_block_ids.end());
      Check(static_cast<int64_t>(state.table.size()) * kKvBlockTokens >= state.position,
            "the block table is too short");
      result.seconds += options_.seconds_per_token * static_cast<double>(slice.token_ids.size());
      if (options_.samples) ScorePrompt(slice, state, result);
      if (!slice.sample || !options_.samples) continue;
      if (!fail_next_.empty()) {
        result.errors.push_back({slice.sequence_id, std::exchange(fail_next_, "")});
        continue;
      }
      worker::SampledToken sampled;
      sampled.sequence_id = slice.sequence_id;
      sampled.token.token =
          sample_next_.value_or((slice.token_ids.back() + 1) % options_.vocab_size);
      sample_next_.reset();
      result.sampled.push_back(std::move(sampled));
    }
  }
  for (const SequenceId id : plan.ends) {
    Check(sequences_.erase(id) == 1, absl::StrCat("unknown sequence ", id, " ended"));
  }
  return result;
}

void FakeRank::ScorePrompt(const Slice& slice, const SequenceState& state, StepResult& result) {
  std::vector<TokenId> next(slice.token_ids.begin() + 1, slice.token_ids.end());
  if (slice.next_prompt_token) next.push_back(*slice.next_prompt_token);
  const bool goes_on = state.prompt_logprobs && state.position < state.prompt_tokens;
  Check(slice.next_prompt_token.has_value() == goes_on,
        absl::StrCat("next_prompt_token of a slice that ends at ", state.position));
  if (!state.prompt_logprobs || slice.begin >= state.prompt_tokens || next.empty()) return;
  worker::SequencePromptLogprobs scored = {
      .sequence_id = slice.sequence_id, .begin = slice.begin + 1, .tokens = {}};
  for (const TokenId id : next) {
    const int64_t position = scored.begin + static_cast<int64_t>(scored.tokens.size());
    GeneratedToken token = {.token = id, .logprob = static_cast<float>(-position)};
    for (int32_t n = 0; n < *state.prompt_logprobs; ++n) {
      token.top_logprobs.push_back({n, static_cast<float>(-n)});
    }
    scored.tokens.push_back(std::move(token));
  }
  result.prompt_logprobs.push_back(std::move(scored));
}

void FakeRank::Check(bool condition, const std::string& what) {
  if (!condition) violations_.push_back(what);
}

namespace {

class FakeRankProcess final : public worker::leader::RankProcess {
 public:
  explicit FakeRankProcess(std::shared_ptr<FakeRank> rank) : rank_(std::move(rank)) {}
  ~FakeRankProcess() override { rank_->Die(); }
  std::string Name() const override { return "fake"; }
  std::string ReadyLine(absl::Time) override { return "ready role=rank"; }
  std::optional<std::string> Wait(absl::Time deadline) override {
    if (!rank_->WaitForEnd(deadline)) return std::nullopt;
    return "exit code 1";
  }
  std::string Stop(absl::Duration) override {
    rank_->Die();
    return "signal 9 (Killed)";
  }

 private:
  const std::shared_ptr<FakeRank> rank_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<worker::leader::RankProcess>> FakeRankLauncher::Launch(
    int32_t rank, const std::string& control_address) {
  MutexLock lock(mutex_);
  const auto own = options_of_.find(rank);
  FakeRank::Options options = own == options_of_.end() ? options_ : own->second;
  options.rank = static_cast<uint32_t>(rank);
  ranks_.push_back(std::make_shared<FakeRank>(options, control_address));
  newest_[rank] = ranks_.back();
  changed_.SignalAll();
  return std::make_unique<FakeRankProcess>(ranks_.back());
}

void FakeRankLauncher::SetOptions(const FakeRank::Options& options) {
  MutexLock lock(mutex_);
  options_ = options;
}

void FakeRankLauncher::SetOptionsOf(int32_t rank, const FakeRank::Options& options) {
  MutexLock lock(mutex_);
  options_of_[rank] = options;
}

std::shared_ptr<FakeRank> FakeRankLauncher::Newest(int32_t rank) const {
  MutexLock lock(mutex_);
  return newest_.at(rank);
}

std::shared_ptr<FakeRank> FakeRankLauncher::WaitForLaunch(size_t launches) {
  const absl::Time deadline = absl::Now() + absl::Seconds(20);
  MutexLock lock(mutex_);
  while (ranks_.size() < launches) {
    CHECK(changed_.WaitUntil(mutex_, deadline) || ranks_.size() >= launches)
        << ranks_.size() << " launches, waited for " << launches;
  }
  return ranks_.back();
}

size_t FakeRankLauncher::launches() const {
  MutexLock lock(mutex_);
  return ranks_.size();
}

}  // namespace longhaul::testing
