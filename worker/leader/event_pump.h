#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <optional>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/mutex.h"
#include "longhaul/v1/worker.pb.h"
#include "worker/leader/call_ticker.h"
#include "worker/leader/event_log.h"
#include "worker/leader/worker_codec.h"

namespace longhaul::worker::leader {

// Writes the events of a log to one call, one outstanding write at a time, then ends the call.
//
// Outlives the call's reactor, because the log and the ticker hold it; Detach cuts the tie.
// Reactor: a gRPC callback reactor that writes v1::ExecuteEvent. Thread-safe.
template <typename Reactor>
class EventPump final : public EventLog::Reader, public CallTicker::Call {
 public:
  // Neither a router that takes nothing nor one that sends nothing of its prompt for this long is
  // waited for.
  static constexpr absl::Duration kPeerTimeout = absl::Seconds(30);

  EventPump(Reactor* reactor, grpc::CallbackServerContext* context, std::shared_ptr<EventLog> log,
            uint64_t from_event)
      : log_(std::move(log)), reactor_(reactor), context_(context), next_(from_event) {}

  void OnEvents() override EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    Pump();
  }

  // To be called from the reactor's OnWriteDone.
  void OnWriteDone(bool ok) EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    write_since_.reset();
    if (!ok && !end_) end_ = grpc::Status(grpc::StatusCode::UNAVAILABLE, "the reader is gone");
    Pump();
  }

  // Ends the call with `status` instead of the rest of the log.
  void Abort(const absl::Status& status) EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    if (!end_) end_ = ToGrpc(status);
    Pump();
  }

  // The peer owes us a message since `since`; nullopt: it owes none.
  void ExpectMessage(std::optional<absl::Time> since) EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    read_since_ = since;
  }

  void OnTick(absl::Time now) override EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    if (reactor_ == nullptr) return;
    if (write_since_ && now - *write_since_ > kPeerTimeout) context_->TryCancel();
    if (read_since_ && now - *read_since_ > kPeerTimeout && !end_) {
      end_ = grpc::Status(grpc::StatusCode::DEADLINE_EXCEEDED, "the prompt did not arrive in time");
      Pump();
    }
  }

  // The reactor is about to be deleted.
  void Detach() EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    reactor_ = nullptr;
  }

 private:
  static grpc::Status ToGrpc(const absl::Status& status) {
    return {static_cast<grpc::StatusCode>(status.code()), std::string(status.message())};
  }

  void Pump() REQUIRES(mutex_) {
    if (reactor_ == nullptr || write_since_ || finished_) return;
    if (!end_) {
      EventLog::Item item = log_->Read(next_);
      if (item.event) {
        outgoing_ = ToProto(*item.event, next_++);
        write_since_ = absl::Now();
        return reactor_->StartWrite(&outgoing_);
      }
      if (item.end) end_ = ToGrpc(*item.end);
    }
    if (end_) {
      finished_ = true;
      reactor_->Finish(*end_);
    }
  }

  const std::shared_ptr<EventLog> log_;
  Mutex mutex_;
  Reactor* reactor_ GUARDED_BY(mutex_);
  grpc::CallbackServerContext* const context_;
  uint64_t next_ GUARDED_BY(mutex_);
  v1::ExecuteEvent outgoing_ GUARDED_BY(mutex_);
  std::optional<absl::Time> write_since_ GUARDED_BY(mutex_);
  std::optional<absl::Time> read_since_ GUARDED_BY(mutex_);
  std::optional<grpc::Status> end_ GUARDED_BY(mutex_);
  bool finished_ GUARDED_BY(mutex_) = false;
};

}  // namespace longhaul::worker::leader
