#pragma once

#include <functional>
#include <variant>
#include <vector>

#include "common/mutex.h"
#include "router/response_sink.h"

namespace longhaul::router::rest {

struct FinishedChoice {
  FinishedEvent event;
  bool all_done = false;
};

// One call of the ResponseSink as a value; absl::Status is OnError.
using RestEvent =
    std::variant<QueuedEvent, ProgressEvent, PromptEvent, DeltaEvent, FinishedChoice, absl::Status>;

// Brings the events of one request from the router's threads to the strand of its connection.
//
// The router's side only stores an event and, if none was waiting, calls `wake`; the strand takes
// all that wait in one go. A progress event replaces one that waits, so that what is stored is the
// output (at most max_tokens tokens a choice) and one progress. Thread-safe.
//
// The mutex is here because the router may hold the sink longer than the connection lives: after
// Detach nothing of the connection, nor of the gateway's event loop, is touched.
class RestSink final : public ResponseSink {
 public:
  // `wake` must not block, nor call into the sink.
  explicit RestSink(std::function<void()> wake) : wake_(std::move(wake)) {}

  void OnQueued(const QueuedEvent& event) override { Put(event); }
  void OnProgress(const ProgressEvent& event) override { Put(event); }
  void OnPrompt(const PromptEvent& event) override { Put(event); }
  void OnDelta(const DeltaEvent& event) override { Put(event); }
  void OnFinished(const FinishedEvent& event, bool all_done) override {
    Put(FinishedChoice{event, all_done});
  }
  void OnError(const absl::Status& status) override { Put(status); }

  // The strand's side: the events since the last call, in order.
  std::vector<RestEvent> Take() EXCLUDES(mutex_);

  // Later events are dropped and `wake` is destroyed. Idempotent.
  void Detach() EXCLUDES(mutex_);

 private:
  void Put(RestEvent event) EXCLUDES(mutex_);

  Mutex mutex_;
  std::function<void()> wake_ GUARDED_BY(mutex_);  // empty once detached
  std::vector<RestEvent> events_ GUARDED_BY(mutex_);
};

}  // namespace longhaul::router::rest
