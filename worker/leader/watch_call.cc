#include "worker/leader/watch_call.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/mutex.h"

namespace longhaul::worker::leader {
namespace {

using Reactor = grpc::ServerWriteReactor<v1::WatchEvent>;

// Of one CacheDelta, in each list: 74 KB.
constexpr size_t kMaxDeltaPrefixes = 4096;

// Outlives the reactor, because board and ticker hold it; Detach cuts the tie. Thread-safe.
class LoadPump final : public LoadBoard::Watcher, public CallTicker::Call {
 public:
  LoadPump(Reactor* reactor, const CallContext& shared) : shared_(shared), reactor_(reactor) {}

  void OnLoad() override EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    due_ = true;
    Pump();
  }
  void OnTick(absl::Time) override { OnLoad(); }
  void OnWriteDone(bool ok) EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    writing_ = false;
    if (!ok && !end_) end_ = grpc::Status(grpc::StatusCode::UNAVAILABLE, "the watcher is gone");
    Pump();
  }
  void End(grpc::Status status) EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    if (!end_) end_ = std::move(status);
    Pump();
  }
  void Detach() EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    reactor_ = nullptr;
  }

 private:
  void Pump() REQUIRES(mutex_) {
    if (reactor_ == nullptr || writing_ || finished_) return;
    const Load load = shared_.board.Get();
    if (!end_ && incarnation_ != 0 && load.incarnation != incarnation_) {
      end_ = grpc::Status(grpc::StatusCode::UNAVAILABLE,
                          absl::StrCat("incarnation ", incarnation_, " of the group is over"));
    }
    if (end_) {
      finished_ = true;
      return reactor_->Finish(*end_);
    }
    outgoing_.Clear();
    if (incarnation_ == 0) {
      if (!load.ready()) return;
      incarnation_ = load.incarnation;
      *outgoing_.mutable_hello() = ToHello(shared_.model, incarnation_);
      due_ = true;  // the first load follows at once
    } else if (due_) {
      due_ = false;
      *outgoing_.mutable_load() = ToProto(load, ++sequence_);
    } else if (!TakeDelta()) {
      return;
    }
    writing_ = true;
    reactor_->StartWrite(&outgoing_);
  }

  // The next part of what is new among the cached prefixes; false if there is none.
  bool TakeDelta() REQUIRES(mutex_) {
    if (num_told_ == news_.added.size() && news_.removed.empty()) {
      news_ = shared_.board.prefixes().Since(news_.next, kMaxDeltaPrefixes);
      num_told_ = 0;
      if (news_.empty()) return false;
    }
    const size_t end = std::min(news_.added.size(), num_told_ + kMaxDeltaPrefixes);
    *outgoing_.mutable_cache_delta() =
        ToProto(std::exchange(news_.reset, false),
                std::span(news_.added).subspan(num_told_, end - num_told_),
                std::exchange(news_.removed, {}), ++delta_sequence_);
    num_told_ = end;
    return true;
  }

  const CallContext& shared_;
  Mutex mutex_;
  Reactor* reactor_ GUARDED_BY(mutex_);
  uint64_t incarnation_ GUARDED_BY(mutex_) = 0;  // of the Hello sent
  uint64_t sequence_ GUARDED_BY(mutex_) = 0;
  PrefixBoard::News news_ GUARDED_BY(mutex_);
  size_t num_told_ GUARDED_BY(mutex_) = 0;  // of news_.added
  uint64_t delta_sequence_ GUARDED_BY(mutex_) = 0;
  bool due_ GUARDED_BY(mutex_) = true;
  bool writing_ GUARDED_BY(mutex_) = false;
  bool finished_ GUARDED_BY(mutex_) = false;
  std::optional<grpc::Status> end_ GUARDED_BY(mutex_);
  v1::WatchEvent outgoing_ GUARDED_BY(mutex_);
};

class WatchCall final : public Reactor {
 public:
  WatchCall(CallContext& shared, const v1::WatchRequest& request)
      : shared_(shared), pump_(std::make_shared<LoadPump>(this, shared)) {
    shared_.board.AddWatcher(pump_);
    shared_.ticker.Add(pump_);
    if (shared_.open_calls.fetch_add(1) >= kMaxOpenCalls) {
      pump_->End({grpc::StatusCode::RESOURCE_EXHAUSTED, "too many calls are open"});
    } else if (request.protocol_version() != kProtocolVersion) {
      pump_->End({grpc::StatusCode::FAILED_PRECONDITION,
                  absl::StrCat("the router speaks protocol version ", request.protocol_version(),
                               ", the leader ", kProtocolVersion)});
    } else {
      pump_->OnLoad();
    }
  }

  void OnWriteDone(bool ok) override { pump_->OnWriteDone(ok); }
  void OnCancel() override {
    pump_->End({grpc::StatusCode::CANCELLED, "the watcher closed the stream"});
  }
  void OnDone() override {
    pump_->Detach();
    shared_.ticker.Remove(pump_.get());
    shared_.board.RemoveWatcher(pump_.get());
    shared_.open_calls.fetch_sub(1);
    delete this;
  }

 private:
  CallContext& shared_;
  const std::shared_ptr<LoadPump> pump_;
};

}  // namespace

grpc::ServerWriteReactor<v1::WatchEvent>* NewWatchCall(CallContext& shared,
                                                       const v1::WatchRequest& request) {
  return new WatchCall(shared, request);
}

}  // namespace longhaul::worker::leader
