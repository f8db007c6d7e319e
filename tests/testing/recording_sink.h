#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/logging.h"
#include "common/mutex.h"
#include "router/response_sink.h"

namespace longhaul::testing {

// What a request brought, in order.
struct RecordedResponse {
  std::optional<router::QueuedEvent> queued;
  std::vector<router::ProgressEvent> progress;
  std::vector<router::PromptEvent> prompt;
  std::vector<router::DeltaEvent> deltas;
  std::vector<router::FinishedEvent> finished;
  std::optional<absl::Status> error;
  bool done = false;  // all finished, or an error

  std::string Text(int32_t choice = 0) const {
    std::string text;
    for (const router::DeltaEvent& delta : deltas) {
      if (delta.choice == choice) text += delta.text;
    }
    return text;
  }
  std::vector<TokenId> Tokens(int32_t choice = 0) const {
    std::vector<TokenId> tokens;
    for (const router::DeltaEvent& delta : deltas) {
      if (delta.choice != choice) continue;
      for (const GeneratedToken& token : delta.tokens) tokens.push_back(token.token);
    }
    return tokens;
  }
};

// A sink that records, and dies of a call that breaks the order its contract promises. Thread-safe.
class RecordingSink final : public router::ResponseSink {
 public:
  void OnQueued(const router::QueuedEvent& event) override {
    Record([&](RecordedResponse& r) {
      CHECK(!r.queued && r.deltas.empty()) << "Queued comes once and first";
      r.queued = event;
    });
  }
  void OnProgress(const router::ProgressEvent& event) override {
    Record([&](RecordedResponse& r) {
      CHECK(r.queued.has_value()) << "Progress before Queued";
      r.progress.push_back(event);
    });
  }
  void OnPrompt(const router::PromptEvent& event) override {
    Record([&](RecordedResponse& r) {
      CHECK(r.queued.has_value()) << "Prompt before Queued";
      for (const auto& d : r.deltas) CHECK(d.choice != event.choice) << "Prompt after Delta";
      r.prompt.push_back(event);
    });
  }
  void OnDelta(const router::DeltaEvent& event) override {
    Record([&](RecordedResponse& r) {
      for (const auto& f : r.finished) CHECK(f.choice != event.choice) << "Delta after Finished";
      r.deltas.push_back(event);
    });
  }
  void OnFinished(const router::FinishedEvent& event, bool all_done) override {
    Record([&](RecordedResponse& r) {
      r.finished.push_back(event);
      r.done = all_done;
    });
  }
  void OnError(const absl::Status& status) override {
    Record([&](RecordedResponse& r) {
      r.error = status;
      r.done = true;
    });
  }

  // What was recorded once `condition` held, or when `timeout` passed.
  RecordedResponse WaitFor(const std::function<bool(const RecordedResponse&)>& condition,
                           absl::Duration timeout = absl::Seconds(10)) const {
    const absl::Time deadline = absl::Now() + timeout;
    MutexLock lock(mutex_);
    while (!condition(response_)) {
      if (!changed_.WaitUntil(mutex_, deadline)) break;
    }
    return response_;
  }
  RecordedResponse WaitForEnd(absl::Duration timeout = absl::Seconds(10)) const {
    return WaitFor([](const RecordedResponse& r) { return r.done; }, timeout);
  }

 private:
  void Record(const std::function<void(RecordedResponse&)>& change) {
    MutexLock lock(mutex_);
    CHECK(!response_.done) << "an event after the end";
    change(response_);
    changed_.SignalAll();
  }

  mutable Mutex mutex_;
  mutable CondVar changed_;
  RecordedResponse response_ GUARDED_BY(mutex_);
};

}  // namespace longhaul::testing
