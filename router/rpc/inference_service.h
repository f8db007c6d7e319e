#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <functional>
#include <set>
#include <thread>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/mutex.h"
#include "common/queue.h"
#include "longhaul/v1/inference.grpc.pb.h"
#include "router/intake.h"
#include "router/rpc/generate_stream.h"
#include "router/rpc/message_bytes.h"

namespace longhaul::router::rpc {

// Every method takes bytes: gRPC's own parsing answers what is no message with UNIMPLEMENTED and
// names nothing.
using RawInference = v1::Inference::WithRawCallbackMethod_Chat<
    v1::Inference::WithRawCallbackMethod_Complete<v1::Inference::WithRawCallbackMethod_Tokenize<
        v1::Inference::WithRawCallbackMethod_Detokenize<
            v1::Inference::WithRawCallbackMethod_ListModels<
                v1::Inference::WithRawCallbackMethod_GetModel<v1::Inference::Service>>>>>>;

// The calls of longhaul.v1.Inference, made to an Intake. Knows no listening socket.
//
// Thread-safe: called by gRPC's threads. One thread tokenizes, one looks for readers that stall.
class InferenceService final : public RawInference {
 public:
  // `intake` and `clock` are borrowed and outlive this. A stream that accepts nothing for
  // `slow_reader` is cancelled.
  InferenceService(absl::Duration slow_reader, Intake& intake, const Clock& clock);
  ~InferenceService() override;  // Stop

  // Ends both threads; calls that wait for them are answered first. To be called when the server
  // takes no call any more and streams are over. Idempotent.
  void Stop() EXCLUDES(mutex_);

  using Stream = grpc::ServerWriteReactor<grpc::ByteBuffer>;
  Stream* Chat(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) override;
  Stream* Complete(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context,
                                       const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override;

 private:
  Stream* Generate(grpc::CallbackServerContext* context, absl::StatusOr<GenerateRequest> request);
  // Runs `work` on the unary thread, which finishes the call: tokenizing may take seconds, and
  // gRPC's threads must not.
  grpc::ServerUnaryReactor* FinishLater(grpc::CallbackServerContext* context,
                                        std::function<absl::Status()> work);
  absl::Status TokenizeNow(const v1::TokenizeRequest& request,
                           v1::TokenizeResponse& response) const;
  absl::Status DetokenizeNow(const v1::DetokenizeRequest& request,
                             v1::DetokenizeResponse& response) const;
  void RunUnary();
  void WatchStalls() EXCLUDES(mutex_);

  const absl::Duration slow_reader_;
  Intake& intake_;
  const Clock& clock_;
  BoundedQueue<std::function<void()>> unary_;

  Mutex mutex_;
  CondVar streams_changed_;
  std::set<GenerateStream*> streams_ GUARDED_BY(mutex_);  // open ones
  bool stopping_ GUARDED_BY(mutex_) = false;

  // Last: they use what is above.
  std::thread unary_thread_;
  std::thread stall_thread_;
};

}  // namespace longhaul::router::rpc
