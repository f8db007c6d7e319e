#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "common/mutex.h"
#include "common/sampling_params.h"

namespace longhaul::worker::leader {

struct AdmittedEvent {
  int32_t cached_tokens = 0;
  double predicted_wait_seconds = 0;  // until prefill starts
};
// Nothing was kept; the router tries elsewhere.
struct RejectedEvent {
  double predicted_wait_seconds = 0;
  std::string reason;
};
struct ProgressEvent {
  int32_t prompt_tokens = 0;
  int32_t cached_tokens = 0;
  int32_t processed_tokens = 0;       // includes cached ones
  std::optional<double> eta_seconds;  // to the first token; absent until a prediction exists
};
struct TokensEvent {
  std::vector<GeneratedToken> tokens;
};
// Logprobs of consecutive tokens of the prompt. Events come in order, each position once, before
// the first TokensEvent.
struct PromptLogprobsEvent {
  int32_t begin = 0;                   // position of tokens[0], > 0
  std::vector<GeneratedToken> tokens;  // the prompt's own
};
enum class FinishReason { kStop, kLength, kCancelled, kError };
struct FinishedEvent {
  FinishReason reason = FinishReason::kStop;
  int32_t prompt_tokens = 0;
  int32_t cached_tokens = 0;
  int32_t completion_tokens = 0;
  absl::Status error;  // with kError
};
using Event = std::variant<AdmittedEvent, RejectedEvent, ProgressEvent, PromptLogprobsEvent,
                           TokensEvent, FinishedEvent>;

// All events of one request, numbered from 0, so that a stream can be picked up where it broke.
//
// Kept whole: an answer is bounded by max_tokens, its progress by the number of its chunks, the
// logprobs of a prompt by max-prompt-logprobs-tokens (0.2 KB each with 20 alternatives), so a
// slow reader costs memory that was there anyway and never holds up generation. Thread-safe: the
// engine thread writes, each stream reads at its own pace.
class EventLog {
 public:
  // Somebody who wants to know of new events. Called without a lock, from the engine thread:
  // returns at once.
  class Reader {
   public:
    virtual ~Reader() = default;
    virtual void OnEvents() = 0;
  };

  struct Item {
    std::optional<Event> event;       // the event asked for
    std::optional<absl::Status> end;  // or: there is none and none will come; how the stream ends
  };

  // Readers hear of it with the next Notify.
  void Append(Event event) EXCLUDES(mutex_);
  // No event follows. `status` is the stream's own: OK also for a request that ended with an error.
  // Notify as above.
  void Close(absl::Status status) EXCLUDES(mutex_);
  // Tells the readers that there is something new. Apart from the above, because they write to
  // sockets, and the ranks wait for their next plan.
  void Notify() EXCLUDES(mutex_);

  // Event `number`, or the end, or neither yet.
  Item Read(uint64_t number) const EXCLUDES(mutex_);

  void AddReader(std::shared_ptr<Reader> reader) EXCLUDES(mutex_);
  void RemoveReader(const Reader* reader) EXCLUDES(mutex_);
  size_t num_readers() const EXCLUDES(mutex_);
  bool closed() const EXCLUDES(mutex_);

 private:
  mutable Mutex mutex_;
  std::vector<Event> events_ GUARDED_BY(mutex_);
  std::optional<absl::Status> end_ GUARDED_BY(mutex_);
  std::vector<std::shared_ptr<Reader>> readers_ GUARDED_BY(mutex_);
};

}  // namespace longhaul::worker::leader
