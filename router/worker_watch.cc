#include "router/worker_watch.h"

#include <grpcpp/client_context.h>
#include <grpcpp/support/client_callback.h>

#include <optional>
#include <utility>

#include "longhaul/v1/worker.grpc.pb.h"

namespace longhaul::router {
namespace {

WatchHello FromProto(const v1::Hello& from) {
  WatchHello hello{.protocol_version = from.protocol_version(), .incarnation = from.incarnation()};
  hello.limits = GroupLimits{
      .model = from.model(),
      .max_model_len = static_cast<int32_t>(from.max_model_len()),
      .kv_blocks = static_cast<int32_t>(from.kv_blocks()),
      .max_waiting_long = static_cast<int32_t>(from.max_waiting_long()),
      .long_prompt_tokens = static_cast<int32_t>(from.long_prompt_tokens()),
      .prefix_root_max_tokens = static_cast<int32_t>(from.prefix_root_max_tokens()),
  };
  // Any other length leaves the digest zero; the leader then refuses each Execute, which names it.
  Digest::FromBytes(from.model_digest(), &hello.limits.model_digest);
  Digest::FromBytes(from.prefix_root(), &hello.limits.prefix_root);
  return hello;
}

PrefixDelta FromProto(const v1::CacheDelta& from) {
  PrefixDelta delta{.sequence = from.sequence(), .reset = from.reset()};
  // What is no identity names no prefix.
  const auto append = [](const auto& identities, std::vector<Digest>& to) {
    to.reserve(static_cast<size_t>(identities.size()));
    for (const std::string& bytes : identities) {
      Digest identity;
      if (Digest::FromBytes(bytes, &identity)) to.push_back(identity);
    }
  };
  append(from.added(), delta.added);
  append(from.removed(), delta.removed);
  return delta;
}

GroupLoad FromProto(const v1::Load& from) {
  return GroupLoad{
      .sequence = from.sequence(),
      .running_requests = static_cast<int32_t>(from.running_requests()),
      .waiting_requests = static_cast<int32_t>(from.waiting_requests()),
      .queued_seconds = from.queued_seconds(),
      .free_kv_blocks = static_cast<int32_t>(from.free_kv_blocks()),
      .ready = from.ready(),
      .draining = from.draining(),
      .cost = {from.cost().c(), from.cost().g(), from.cost().b(), from.cost().a(),
               static_cast<int64_t>(from.cost().reach_tokens())},
  };
}

// As in worker_client.cc, the hold keeps OnDone back until the reads are over.
class WatchCall final : public WorkerWatch, public grpc::ClientReadReactor<v1::WatchEvent> {
 public:
  WatchCall(std::shared_ptr<grpc::Channel> channel, OnUpdate on_update)
      : stub_(v1::Worker::NewStub(std::move(channel))), on_update_(std::move(on_update)) {
    request_.set_protocol_version(kProtocolVersion);
  }

  void Begin() {
    stub_->async()->Watch(&context_, &request_, this);
    AddHold();
    StartRead(&event_);
    StartCall();
  }

  void Resume() override { StartRead(&event_); }
  void Cancel() override { context_.TryCancel(); }

  void OnReadDone(bool ok) override {
    if (!ok) return RemoveHold();
    switch (event_.event_case()) {
      case v1::WatchEvent::kHello:
        return on_update_(FromProto(event_.hello()));
      case v1::WatchEvent::kLoad:
        return on_update_(FromProto(event_.load()));
      case v1::WatchEvent::kCacheDelta:
        return on_update_(FromProto(event_.cache_delta()));
      default:
        return StartRead(&event_);
    }
  }

  void OnDone(const grpc::Status& status) override {
    // The owner may destroy this object while the call is still on the stack.
    const OnUpdate on_update = std::move(on_update_);
    on_update(WatchEnded{
        absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message())});
  }

 private:
  const std::unique_ptr<v1::Worker::Stub> stub_;
  OnUpdate on_update_;
  grpc::ClientContext context_;
  v1::WatchRequest request_;
  v1::WatchEvent event_;
};

}  // namespace

std::unique_ptr<WorkerWatch> WorkerWatch::Start(std::shared_ptr<grpc::Channel> channel,
                                                OnUpdate on_update) {
  auto call = std::make_unique<WatchCall>(std::move(channel), std::move(on_update));
  call->Begin();
  return call;
}

}  // namespace longhaul::router
