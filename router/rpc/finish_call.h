#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include "absl/status/status.h"

// The end of a call, with what a client can act on in the trailer "longhaul-error-bin".
namespace longhaul::router::rpc {

// Adds the trailer, if `status` has details. To be called before the call is finished.
void AddErrorDetail(grpc::CallbackServerContext& context, const absl::Status& status);

void FinishUnary(grpc::CallbackServerContext& context, grpc::ServerUnaryReactor& reactor,
                 const absl::Status& status);

// The reactor of a stream that ends with `status` before its first message. Owns itself.
grpc::ServerWriteReactor<grpc::ByteBuffer>* RefuseStream(grpc::CallbackServerContext& context,
                                                         const absl::Status& status);

}  // namespace longhaul::router::rpc
