#include "router/rpc/message_bytes.h"

#include <grpcpp/impl/codegen/proto_utils.h>
#include <grpcpp/support/proto_buffer_writer.h>
#include <grpcpp/support/slice.h>

#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "router/rpc/request_parser.h"

namespace longhaul::router::rpc {

absl::Status TakeMessage(grpc::ByteBuffer& bytes, google::protobuf::Message& request) {
  if (!bytes.Valid()) return ParseRequest({}, request);
  grpc::Slice slice;
  const grpc::Status joined = bytes.DumpToSingleSlice(&slice);
  bytes.Clear();
  if (!joined.ok()) {
    return absl::InternalError(absl::StrCat("reading a request: ", joined.error_message()));
  }
  return ParseRequest({reinterpret_cast<const char*>(slice.begin()), slice.size()}, request);
}

grpc::ByteBuffer ToBytes(const google::protobuf::Message& message) {
  grpc::ByteBuffer bytes;
  bool own = false;
  const grpc::Status done =
      grpc::GenericSerialize<grpc::ProtoBufferWriter, google::protobuf::Message>(message, &bytes,
                                                                                 &own);
  CHECK(done.ok()) << message.GetTypeName() << " of " << message.ByteSizeLong() << " bytes";
  return bytes;
}

}  // namespace longhaul::router::rpc
