#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/sampling_params.h"
#include "common/types.h"
#include "router/request.h"
#include "router/worker_channels.h"

namespace longhaul::router {

// What a leader is asked to do.
struct ExecutionSpec {
  RequestId id;
  std::string model;
  Digest model_digest;                                 // of the group that placement chose
  std::shared_ptr<const std::vector<TokenId>> prompt;  // not empty
  SamplingParams sampling;
  StopParams stop;
  absl::Time deadline = absl::InfiniteFuture();
  int32_t priority = 0;
  std::string traceparent;
};

struct AdmittedEvent {
  int32_t cached_tokens = 0;
  double predicted_wait_seconds = 0;
};
struct RejectedEvent {
  double predicted_wait_seconds = 0;
  std::string reason;
};
struct TokensEvent {
  std::vector<GeneratedToken> tokens;
};
// Logprobs of the prompt's tokens from position `begin` on, begin > 0.
struct PromptLogprobsEvent {
  int32_t begin = 0;
  std::vector<GeneratedToken> tokens;
};
// The leader is done. `error` is not OK if generation failed; then `reason` means nothing.
struct ResultEvent {
  FinishReason reason = FinishReason::kStop;
  int32_t cached_tokens = 0;
  int32_t completion_tokens = 0;
  absl::Status error;
};
// The stream is over: the last event of every execution.
struct EndedEvent {
  absl::Status status;
};
using ExecutionEvent = std::variant<AdmittedEvent, RejectedEvent, ProgressEvent,
                                    PromptLogprobsEvent, TokensEvent, ResultEvent, EndedEvent>;

// One Execute stream. Thread-compatible: its owner is the dispatch thread.
class Execution {
 public:
  // Allowed once EndedEvent was given, not before.
  virtual ~Execution() = default;

  // Asks for the next event. To be called once for each event but EndedEvent, also after Cancel:
  // so a stream has at most one event on its way and cannot flood its owner.
  virtual void Resume() = 0;

  // Closes the stream, which cancels the work on the leader. EndedEvent still follows. Idempotent.
  virtual void Cancel() = 0;

  // Closes the stream because the leader hangs: the EndedEvent is kUnavailable. Idempotent.
  virtual void Lose() = 0;
};

// Speaks Execute of worker.proto to the leaders. Thread-safe.
class WorkerClient {
 public:
  // Called from gRPC's threads; returns at once.
  using OnEvent = std::function<void(ExecutionEvent)>;

  // Both are borrowed and outlive this.
  WorkerClient(const WorkerChannels& channels, const Clock& clock)
      : channels_(channels), clock_(clock) {}

  // Opens the stream and sends header and prompt (chunks of at most 256 KiB). A stream that its
  // leader or the network cancelled ends with kUnavailable, one of Cancel() with kCancelled.
  std::unique_ptr<Execution> Start(const std::string& address, ExecutionSpec spec,
                                   OnEvent on_event) const;

 private:
  const WorkerChannels& channels_;
  const Clock& clock_;
};

}  // namespace longhaul::router
