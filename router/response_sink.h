#pragma once

#include "absl/status/status.h"
#include "router/request.h"

namespace longhaul::router {

// Where the events of one request go: a gRPC stream or an HTTP response.
//
// Calls come one after another (from the intake pool until OnQueued, then from the dispatch
// thread), in the order Queued, then Progress and Prompt, Delta*, Finished for each choice; or
// OnError once at any point, after which nothing comes. An implementation returns at once: it
// buffers (output is small: at most max_tokens tokens a choice and its echoed prompt) and writes
// from its own threads.
//
// Ownership: the router holds a shared_ptr from Submit until the last Finished or OnError.
class ResponseSink {
 public:
  virtual ~ResponseSink() = default;
  virtual void OnQueued(const QueuedEvent& event) = 0;
  virtual void OnProgress(const ProgressEvent& event) = 0;
  virtual void OnPrompt(const PromptEvent& event) = 0;
  virtual void OnDelta(const DeltaEvent& event) = 0;
  // `all_done` marks the last choice.
  virtual void OnFinished(const FinishedEvent& event, bool all_done) = 0;
  // The code decides the HTTP or gRPC status (architecture.md, failure map); the request's field at
  // fault and a retry hint travel as payloads (router/error_detail.h).
  virtual void OnError(const absl::Status& status) = 0;
};

}  // namespace longhaul::router
