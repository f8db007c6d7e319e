#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/mutex.h"
#include "longhaul/v1/inference.pb.h"
#include "router/intake.h"
#include "router/response_sink.h"

namespace longhaul::router::rpc {

// The response of one Chat or Complete call: buffers the events of the router and writes them one
// by one, so that generation never waits for a slow reader.
//
// The buffer holds serialised events: at most what the request may generate (max_tokens a choice),
// its progress and its echoed prompt, and no longer than a reader may stall (CancelIfStalled).
// Thread-safe: the sink's side is called by the dispatch thread, the reactor's side by gRPC.
//
// Lifetime: held by the router until the request ends, by itself until OnDone.
class GenerateStream final : public grpc::ServerWriteReactor<grpc::ByteBuffer>,
                             public ResponseSink {
 public:
  struct Params {
    grpc::CallbackServerContext* context;  // lives until OnDone
    RequestId id;
    std::string client_request_id;
    std::string model;
  };
  // `intake` and `clock` are borrowed. `on_done` runs when gRPC is through with the call.
  static std::shared_ptr<GenerateStream> Create(Params params, Intake& intake, const Clock& clock,
                                                std::function<void(GenerateStream*)> on_done);

  // Cancels the call if its reader has accepted nothing for `limit`. To be called before on_done
  // only.
  void CancelIfStalled(absl::Duration limit) EXCLUDES(mutex_);

  void OnQueued(const QueuedEvent& event) override;
  void OnProgress(const ProgressEvent& event) override;
  void OnPrompt(const PromptEvent& event) override;
  void OnDelta(const DeltaEvent& event) override;
  void OnFinished(const FinishedEvent& event, bool all_done) override;
  void OnError(const absl::Status& status) override;

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  GenerateStream(Params params, Intake& intake, const Clock& clock,
                 std::function<void(GenerateStream*)> on_done);

  void Enqueue(const v1::GenerateEvent& event) EXCLUDES(mutex_);
  // Nothing follows what is buffered.
  void End(const absl::Status& status) EXCLUDES(mutex_);
  // Starts the next operation, if it is time for one. At most one write is outstanding, and Finish
  // comes after the last.
  void Advance() EXCLUDES(mutex_);

  const Params params_;
  const TokenBytes token_bytes_;
  Intake& intake_;
  const Clock& clock_;
  const std::function<void(GenerateStream*)> on_done_;
  std::shared_ptr<GenerateStream> self_;  // until OnDone

  // Whoever sets `writing_` owns it until OnWriteDone.
  grpc::ByteBuffer writing_event_;

  Mutex mutex_;
  std::deque<grpc::ByteBuffer> pending_ GUARDED_BY(mutex_);
  bool writing_ GUARDED_BY(mutex_) = false;
  absl::Time write_began_ GUARDED_BY(mutex_);
  std::optional<absl::Status> end_ GUARDED_BY(mutex_);
  bool finished_ GUARDED_BY(mutex_) = false;  // Finish was called
};

}  // namespace longhaul::router::rpc
