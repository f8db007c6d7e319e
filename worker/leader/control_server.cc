#include "worker/leader/control_server.h"

#include <grpcpp/grpcpp.h>

#include <deque>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/logging.h"
#include "common/mutex.h"
#include "longhaul/v1/rank.grpc.pb.h"
#include "worker/leader/listen_address.h"
#include "worker/leader/rank_hardware.h"
#include "worker/step_plan_wire.h"

namespace longhaul::worker::leader {
namespace {

// A plan after a preemption carries a whole prompt of a million ids: about 3 MB.
constexpr int kMaxMessageBytes = 64 << 20;
// Messages; the group has at most one plan a pipeline stage in flight.
constexpr size_t kMaxOutgoing = 1024;

absl::StatusOr<RankEvent> FromProto(const v1::RankMessage& message) {
  switch (message.message_case()) {
    case v1::RankMessage::kRegister: {
      const v1::Register& proto = message.register_();
      RankRegistration registration = {
          .secret = proto.secret(),
          .protocol_version = proto.protocol_version(),
          .rank = proto.rank(),
          .model_digest = std::nullopt,
          .kv_capacity_blocks = static_cast<int64_t>(proto.kv_capacity_blocks()),
          .kv_limit_blocks = static_cast<int64_t>(proto.kv_limit_blocks()),
          .host_slots = static_cast<int64_t>(proto.host_slots()),
          .disk_slots = static_cast<int64_t>(proto.disk_slots()),
          .pid = proto.pid(),
          .host = proto.host(),
          .hardware = PrintableHardware(proto.hardware())};
      Digest digest;
      if (Digest::FromBytes(proto.model_digest(), &digest)) registration.model_digest = digest;
      return registration;
    }
    case v1::RankMessage::kStarted:
      return RankStarted{.load_seconds = message.started().load_seconds(),
                         .weight_bytes = static_cast<int64_t>(message.started().weight_bytes()),
                         .kv_bytes = static_cast<int64_t>(message.started().kv_bytes())};
    case v1::RankMessage::kHeartbeat:
      return RankHeartbeat{.step_id = message.heartbeat().step_id(),
                           .step_seconds = message.heartbeat().step_seconds()};
    case v1::RankMessage::kStepDone: {
      absl::StatusOr<StepResult> result = worker::FromProto(message.step_done());
      if (!result.ok()) return result.status();
      return *std::move(result);
    }
    case v1::RankMessage::kRendezvous:
      return RendezvousEntry{.key = message.rendezvous().key(),
                             .value = message.rendezvous().value()};
    case v1::RankMessage::kFailed:
      return RankFailure{message.failed().message()};
    case v1::RankMessage::MESSAGE_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError("a rank message of no known kind");
}

// The part of a control stream that outlives it: senders hold it as a RankLink.
class Link final : public RankLink {
 public:
  using Reactor = grpc::ServerBidiReactor<v1::RankMessage, v1::LeaderMessage>;

  explicit Link(Reactor* reactor) : reactor_(reactor) {}

  void SendStart(const RankPlace& place) override {
    v1::LeaderMessage message;
    v1::Start* start = message.mutable_start();
    start->set_incarnation(place.incarnation);
    start->set_tensor_parallel_size(place.tensor_parallel_size);
    start->set_pipeline_parallel_size(place.pipeline_parallel_size);
    start->set_layer_begin(place.layer_begin);
    start->set_layer_end(place.layer_end);
    start->set_kv_blocks(place.kv_blocks);
    start->set_host_slots(place.host_slots);
    start->set_disk_slots(place.disk_slots);
    Send(std::move(message));
  }
  void SendPlan(const StepPlan& plan) override {
    v1::LeaderMessage message;
    worker::ToProto(plan, message.mutable_plan());
    Send(std::move(message));
  }
  void SendRendezvous(const RendezvousEntry& entry) override {
    v1::LeaderMessage message;
    message.mutable_rendezvous()->set_key(entry.key);
    message.mutable_rendezvous()->set_value(entry.value);
    Send(std::move(message));
  }
  void SendDumpStacks() override {
    v1::LeaderMessage message;
    message.mutable_dump_stacks();
    Send(std::move(message));
  }
  void SendAbort(const std::string& reason) override {
    v1::LeaderMessage message;
    message.mutable_abort()->set_reason(reason);
    Send(std::move(message));
  }
  void Close(const absl::Status& status) override EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    if (reactor_ == nullptr || end_) return;
    end_ =
        grpc::Status(static_cast<grpc::StatusCode>(status.code()), std::string(status.message()));
    Pump();
  }

  void OnWriteDone(bool ok) EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    outgoing_.pop_front();
    writing_ = false;
    if (!ok) {  // the peer is gone: nothing more can be sent
      outgoing_.clear();
      if (!end_) end_ = grpc::Status(grpc::StatusCode::UNAVAILABLE, "write failed");
    }
    Pump();
  }
  // The reactor is about to be deleted.
  void Detach() EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    reactor_ = nullptr;
    outgoing_.clear();
  }

 private:
  void Send(v1::LeaderMessage message) EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    if (reactor_ == nullptr || end_) return;
    CHECK(outgoing_.size() < kMaxOutgoing) << outgoing_.size() << " messages wait for a rank";
    outgoing_.push_back(std::move(message));
    Pump();
  }
  // One write at a time, the end after the last.
  void Pump() REQUIRES(mutex_) {
    if (writing_ || finished_ || reactor_ == nullptr) return;
    if (!outgoing_.empty()) {
      writing_ = true;
      reactor_->StartWrite(&outgoing_.front());
    } else if (end_) {
      finished_ = true;
      reactor_->Finish(*end_);
    }
  }

  Mutex mutex_;
  Reactor* reactor_ GUARDED_BY(mutex_);
  std::deque<v1::LeaderMessage> outgoing_ GUARDED_BY(mutex_);
  std::optional<grpc::Status> end_ GUARDED_BY(mutex_);
  bool writing_ GUARDED_BY(mutex_) = false;
  bool finished_ GUARDED_BY(mutex_) = false;
};

// One control stream; deletes itself.
class Call final : public Link::Reactor {
 public:
  explicit Call(const RankEventHandler& handler)
      : handler_(handler), link_(std::make_shared<Link>(this)) {
    handler_(link_, RankConnected{});
    StartRead(&incoming_);
  }

  void OnReadDone(bool ok) override {
    if (!ok) return End();
    absl::StatusOr<RankEvent> event = FromProto(incoming_);
    if (!event.ok()) {
      link_->Close(event.status());
      return End();
    }
    handler_(link_, *std::move(event));
    StartRead(&incoming_);
  }
  void OnWriteDone(bool ok) override { link_->OnWriteDone(ok); }
  void OnDone() override {
    link_->Detach();
    delete this;
  }

 private:
  // Reading is over: the rank is gone or done. Nothing reads afterwards, so this happens once.
  void End() {
    handler_(link_, RankClosed{});
    link_->Close(absl::OkStatus());
  }

  const RankEventHandler& handler_;
  const std::shared_ptr<Link> link_;
  v1::RankMessage incoming_;
};

}  // namespace

class ControlServer::Impl final : public v1::Rank::CallbackService {
 public:
  explicit Impl(RankEventHandler handler) : handler_(std::move(handler)) {}
  ~Impl() override {
    // The deadline cancels streams that are still open.
    if (server_ != nullptr) server_->Shutdown(absl::ToChronoTime(absl::Now()));
  }

  absl::StatusOr<std::string> Listen(const std::string& address) {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port);
    builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
    builder.SetMaxSendMessageSize(kMaxMessageBytes);
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    // Heartbeats show a dead peer; HTTP/2 pings are not needed and not punished.
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 60'000);
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr) {
      return absl::UnavailableError(absl::StrCat("cannot listen for ranks on ", address));
    }
    return ResolvedAddress(address, port);
  }

  grpc::ServerBidiReactor<v1::RankMessage, v1::LeaderMessage>* Control(
      grpc::CallbackServerContext* /*context*/) override {
    return new Call(handler_);
  }

 private:
  const RankEventHandler handler_;
  std::unique_ptr<grpc::Server> server_;
};

absl::StatusOr<std::unique_ptr<ControlServer>> ControlServer::Start(const std::string& address,
                                                                    RankEventHandler handler) {
  auto impl = std::make_unique<Impl>(std::move(handler));
  absl::StatusOr<std::string> resolved = impl->Listen(address);
  if (!resolved.ok()) return resolved.status();
  return std::unique_ptr<ControlServer>(new ControlServer(*std::move(resolved), std::move(impl)));
}

ControlServer::ControlServer(std::string address, std::unique_ptr<Impl> impl)
    : address_(std::move(address)), impl_(std::move(impl)) {}

ControlServer::~ControlServer() = default;

}  // namespace longhaul::worker::leader
