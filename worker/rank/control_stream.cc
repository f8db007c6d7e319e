#include "worker/rank/control_stream.h"

#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <deque>
#include <limits>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/logging.h"
#include "common/mutex.h"
#include "common/status_macros.h"
#include "longhaul/v1/rank.grpc.pb.h"
#include "worker/step_plan_wire.h"

namespace longhaul::worker::rank {
namespace {

// A plan may carry a whole prompt and, after a preemption, its cached part.
constexpr int kMaxMessageBytes = 64 << 20;
// A result up to this size finds room in the stream's window: whoever sends it does not wait.
constexpr size_t kMaxDirectBytes = 16 << 10;
// How long a leader gets to read a last message.
constexpr absl::Duration kFarewell = absl::Seconds(1);
// How often a request to stop is looked for while nobody answers.
constexpr absl::Duration kDialLook = absl::Milliseconds(200);

absl::Status FromGrpc(const grpc::Status& status) {
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

std::string HostName() {
  std::array<char, 256> name = {};
  if (gethostname(name.data(), name.size() - 1) != 0) return "unknown";
  return name.data();
}

absl::StatusOr<GroupPlace> FromProto(const v1::Start& proto) {
  constexpr uint32_t kMaxRanks = 4096;
  constexpr uint32_t kMaxInt = std::numeric_limits<int32_t>::max();
  const auto in_range = [](uint32_t value, uint32_t low, uint32_t high) {
    return value >= low && value <= high;
  };
  if (!in_range(proto.tensor_parallel_size(), 1, kMaxRanks) ||
      !in_range(proto.pipeline_parallel_size(), 1, kMaxRanks) ||
      !in_range(proto.kv_blocks(), 1, kMaxInt) || !in_range(proto.host_slots(), 0, kMaxInt) ||
      !in_range(proto.disk_slots(), 0, kMaxInt) || !in_range(proto.layer_end(), 1, kMaxInt) ||
      proto.layer_begin() >= proto.layer_end()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "start names tensor_parallel_size ", proto.tensor_parallel_size(),
        ", pipeline_parallel_size ", proto.pipeline_parallel_size(), ", layers [",
        proto.layer_begin(), ", ", proto.layer_end(), "), kv_blocks ", proto.kv_blocks(),
        ", host_slots ", proto.host_slots(), ", disk_slots ", proto.disk_slots()));
  }
  GroupPlace place;
  place.incarnation = proto.incarnation();
  place.tensor_parallel_size = static_cast<int32_t>(proto.tensor_parallel_size());
  place.pipeline_parallel_size = static_cast<int32_t>(proto.pipeline_parallel_size());
  place.layer_begin = static_cast<int32_t>(proto.layer_begin());
  place.layer_end = static_cast<int32_t>(proto.layer_end());
  place.kv_blocks = static_cast<int32_t>(proto.kv_blocks());
  place.host_slots = static_cast<int32_t>(proto.host_slots());
  place.disk_slots = static_cast<int32_t>(proto.disk_slots());
  return place;
}

// Messages on their way to the stream, which takes one at a time and in order. Whoever has the turn
// may write, without a lock. Bounded; thread-safe.
class Outbox {
 public:
  explicit Outbox(size_t capacity) : capacity_(capacity) {}

  // kResourceExhausted when `capacity` messages wait, kCancelled after Close.
  absl::Status Push(v1::RankMessage message) EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    if (closed_) return absl::CancelledError("the stream is closed");
    if (messages_.size() >= capacity_) {
      return absl::ResourceExhaustedError(
          absl::StrCat(messages_.size(), " messages wait for the leader, limit ", capacity_));
    }
    messages_.push_back(std::move(message));
    changed_.SignalAll();
    return absl::OkStatus();
  }

  // The turn, if nobody has it, nothing waits and nothing is closed: what is written now is in
  // order.
  bool TryTurn() EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    if (taken_ || closed_ || !messages_.empty()) return false;
    taken_ = true;
    return true;
  }
  // False if others have it until `deadline`.
  bool WaitForTurn(absl::Time deadline) EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    while (taken_) {
      if (!WaitUntil(deadline) && taken_) return false;
    }
    taken_ = true;
    return true;
  }
  // The next message, and the turn; nullopt at `deadline`, or closed and empty.
  std::optional<v1::RankMessage> Next(absl::Time deadline) EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    while (taken_ || messages_.empty()) {
      if (closed_ && messages_.empty()) return std::nullopt;
      if (!WaitUntil(deadline) && (taken_ || messages_.empty())) return std::nullopt;
    }
    taken_ = true;
    std::optional<v1::RankMessage> message(std::move(messages_.front()));
    messages_.pop_front();
    return message;
  }
  void EndTurn() EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    taken_ = false;
    // Else the writer would wake with every step.
    if (wants_turn_ || closed_ || !messages_.empty()) changed_.SignalAll();
  }

  // What waits is still written. Idempotent.
  void Close() EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    closed_ = true;
    changed_.SignalAll();
  }
  // Whether nothing waits and nothing will come.
  bool drained() const EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    return closed_ && messages_.empty();
  }

 private:
  bool WaitUntil(absl::Time deadline) REQUIRES(mutex_) {
    wants_turn_ = taken_;
    const bool woken = changed_.WaitUntil(mutex_, deadline);
    wants_turn_ = false;
    return woken;
  }

  const size_t capacity_;
  mutable Mutex mutex_;
  CondVar changed_;  // waited for by the writer thread alone
  std::deque<v1::RankMessage> messages_ GUARDED_BY(mutex_);
  bool taken_ GUARDED_BY(mutex_) = false;
  bool wants_turn_ GUARDED_BY(mutex_) = false;
  bool closed_ GUARDED_BY(mutex_) = false;
};

}  // namespace

class ControlStream::Impl {
 public:
  explicit Impl(const StepProgress& progress) : progress_(progress), outgoing_(kMaxQueued) {}

  ~Impl() {
    Cancel();
    if (writer_.joinable()) writer_.join();
    if (stream_ != nullptr && !finished_) stream_->Finish();
  }

  absl::Status Open(const std::string& address, const Registration& registration,
                    absl::Time deadline, const std::stop_token& stop) {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
    arguments.SetMaxSendMessageSize(kMaxMessageBytes);
    // A proxy of the environment has no business between a leader and its ranks.
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    const std::shared_ptr<grpc::Channel> channel =
        grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
    while (!channel->WaitForConnected(
        absl::ToChronoTime(std::min(deadline, absl::Now() + kDialLook)))) {
      if (stop.stop_requested()) return absl::CancelledError("stopped while dialling the leader");
      if (absl::Now() >= deadline) {
        return absl::UnavailableError(absl::StrCat("no leader answers at ", address));
      }
    }
    stub_ = v1::Rank::NewStub(channel);
    stream_ = stub_->Control(&context_);
    v1::RankMessage message;
    v1::Register* proto = message.mutable_register_();
    proto->set_secret(registration.secret);
    proto->set_protocol_version(kProtocolVersion);
    proto->set_rank(registration.rank);
    proto->set_model_digest(registration.model_digest.ToBytes());
    proto->set_kv_capacity_blocks(static_cast<uint64_t>(registration.kv_capacity_blocks));
    proto->set_kv_limit_blocks(static_cast<uint64_t>(registration.kv_limit_blocks));
    proto->set_host_slots(static_cast<uint64_t>(registration.host_slots));
    proto->set_disk_slots(static_cast<uint64_t>(registration.disk_slots));
    proto->set_pid(getpid());
    proto->set_host(HostName());
    proto->set_hardware(registration.hardware);
    stream_->Write(message);  // a failure shows in Run as the stream's end
    writer_ = std::thread([this] { WriteAll(); });
    return absl::OkStatus();
  }

  absl::Status Run(const Handlers& handlers) {
    const absl::Status ended = Read(handlers);
    handlers.on_end();
    if (!ended.ok()) {
      EndBecause(ended, /*tell_leader=*/!absl::IsAborted(ended));
      // The leader takes the farewell and ends the call; the writer sees to it that this is soon.
      v1::LeaderMessage ignored;
      while (stream_->Read(&ignored)) {
      }
    }
    {
      MutexLock lock(mutex_);
      read_ended_ = true;
    }
    read_end_.SignalAll();
    outgoing_.Close();
    writer_.join();
    finished_ = true;
    const absl::Status call = FromGrpc(stream_->Finish());
    MutexLock lock(mutex_);
    return failure_.ok() ? call : failure_;
  }

  absl::Status Push(v1::RankMessage message) { return outgoing_.Push(std::move(message)); }

  // Written by this thread if it can be at once: the leader waits for it, and the writer sleeps.
  absl::Status SendNow(v1::RankMessage message) {
    if (message.ByteSizeLong() > kMaxDirectBytes || !outgoing_.TryTurn()) {
      return Push(std::move(message));
    }
    stream_->Write(message);  // a failure shows in Run as the stream's end
    outgoing_.EndTurn();
    return absl::OkStatus();
  }

  // This side ends the stream; the first reason counts.
  void EndBecause(const absl::Status& why, bool tell_leader) EXCLUDES(mutex_) {
    {
      MutexLock lock(mutex_);
      if (!failure_.ok()) return;
      failure_ = why;
    }
    if (tell_leader) {
      v1::RankMessage message;
      message.mutable_failed()->set_message(why.ToString());
      const absl::Status pushed = outgoing_.Push(std::move(message));
      if (!pushed.ok()) LOG(WARNING) << "event=farewell_not_sent why=\"" << pushed << "\"";
    }
    outgoing_.Close();
  }

  void Cancel() {
    outgoing_.Close();
    context_.TryCancel();
  }

 private:
  // Returns OK when the stream ended, an error when this side must end it.
  absl::Status Read(const Handlers& handlers) {
    bool started = false;
    v1::LeaderMessage message;
    while (stream_->Read(&message)) {
      switch (message.message_case()) {
        case v1::LeaderMessage::kStart: {
          if (started) return absl::InvalidArgumentError("leader sent a second start");
          started = true;
          ASSIGN_OR_RETURN(const GroupPlace place, FromProto(message.start()));
          RETURN_IF_ERROR(handlers.on_start(place));
          break;
        }
        case v1::LeaderMessage::kPlan: {
          if (!started) return absl::InvalidArgumentError("leader sent a plan before start");
          ASSIGN_OR_RETURN(StepPlan plan, worker::FromProto(message.plan()));
          RETURN_IF_ERROR(handlers.on_plan(std::move(plan)));
          break;
        }
        case v1::LeaderMessage::kRendezvous:
          RETURN_IF_ERROR(
              handlers.on_rendezvous(message.rendezvous().key(), message.rendezvous().value()));
          break;
        case v1::LeaderMessage::kDumpStacks:
          handlers.on_dump_stacks();
          break;
        case v1::LeaderMessage::kAbort:
          return absl::AbortedError(
              absl::StrCat("leader aborted the group: ", message.abort().reason()));
        case v1::LeaderMessage::MESSAGE_NOT_SET:
          return absl::InvalidArgumentError("leader sent a message of no known kind");
      }
    }
    return absl::OkStatus();
  }

  // The writer thread: messages as they come, heartbeats every second, until the queue is closed
  // and empty or the stream is broken.
  void WriteAll() {
    absl::Time next_beat = absl::Now();
    bool writable = true;
    while (writable) {
      std::optional<v1::RankMessage> message;
      if (absl::Now() >= next_beat) {
        next_beat = absl::Now() + kHeartbeatPeriod;
        if (!outgoing_.WaitForTurn(next_beat)) continue;
        message = Heartbeat();
      } else {
        message = outgoing_.Next(next_beat);
        if (!message && outgoing_.drained()) break;
        if (!message) continue;
      }
      writable = stream_->Write(*message);
      outgoing_.EndTurn();
    }
    // The last turn: nobody writes after WritesDone.
    const absl::Time farewell_end = absl::Now() + kFarewell;
    if (!outgoing_.WaitForTurn(farewell_end)) {
      context_.TryCancel();
      outgoing_.WaitForTurn(absl::InfiniteFuture());
    }
    stream_->WritesDone();
    // The leader now ends the call. Should it not, the reader must not wait for it for ever.
    MutexLock lock(mutex_);
    while (!read_ended_ && absl::Now() < farewell_end) {
      read_end_.WaitUntil(mutex_, farewell_end);
    }
    if (!read_ended_) context_.TryCancel();
  }

  v1::RankMessage Heartbeat() const {
    const StepProgress::Snapshot now = progress_.Read();
    v1::RankMessage beat;
    beat.mutable_heartbeat()->set_step_id(now.step_id);
    beat.mutable_heartbeat()->set_step_seconds(now.seconds);
    return beat;
  }

  const StepProgress& progress_;
  Outbox outgoing_;
  grpc::ClientContext context_;
  std::unique_ptr<v1::Rank::Stub> stub_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::RankMessage, v1::LeaderMessage>> stream_;
  std::thread writer_;
  bool finished_ = false;  // thread of Run
  Mutex mutex_;
  CondVar read_end_;
  bool read_ended_ GUARDED_BY(mutex_) = false;
  absl::Status failure_ GUARDED_BY(mutex_);
};

ControlStream::ControlStream(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ControlStream::~ControlStream() = default;

absl::StatusOr<std::unique_ptr<ControlStream>> ControlStream::Open(const std::string& address,
                                                                   const Registration& registration,
                                                                   const StepProgress& progress,
                                                                   absl::Time deadline,
                                                                   const std::stop_token& stop) {
  auto impl = std::make_unique<Impl>(progress);
  RETURN_IF_ERROR(impl->Open(address, registration, deadline, stop));
  return std::unique_ptr<ControlStream>(new ControlStream(std::move(impl)));
}

absl::Status ControlStream::Run(const Handlers& handlers) { return impl_->Run(handlers); }

absl::Status ControlStream::SendStarted(const LoadReport& report) {
  v1::RankMessage message;
  message.mutable_started()->set_load_seconds(report.seconds);
  message.mutable_started()->set_weight_bytes(static_cast<uint64_t>(report.weight_bytes));
  message.mutable_started()->set_kv_bytes(static_cast<uint64_t>(report.kv_bytes));
  return impl_->Push(std::move(message));
}

absl::Status ControlStream::SendRendezvous(const std::string& key, const std::string& value) {
  v1::RankMessage message;
  message.mutable_rendezvous()->set_key(key);
  message.mutable_rendezvous()->set_value(value);
  return impl_->Push(std::move(message));
}

absl::Status ControlStream::SendStepDone(const StepResult& result) {
  v1::RankMessage message;
  ToProto(result, message.mutable_step_done());
  return impl_->SendNow(std::move(message));
}

void ControlStream::Fail(const absl::Status& why) { impl_->EndBecause(why, /*tell_leader=*/true); }

void ControlStream::Cancel() { impl_->Cancel(); }

}  // namespace longhaul::worker::rank
