#pragma once

#include <google/protobuf/message.h>
#include <grpcpp/support/byte_buffer.h>

#include "absl/status/status.h"

// Messages to and from the bytes that gRPC moves. Thread-safe.
namespace longhaul::router::rpc {

// Empties `bytes`, which gRPC would hold for as long as the call lasts, and fills `request`.
// Errors: those of ParseRequest; kInternal if gRPC cannot hand its bytes over.
absl::Status TakeMessage(grpc::ByteBuffer& bytes, google::protobuf::Message& request);

// CHECK that the message is below 2 GiB, which nothing that a request can ask for
// reaches.
grpc::ByteBuffer ToBytes(const google::protobuf::Message& message);

}  // namespace longhaul::router::rpc
