#include "router/rpc/finish_call.h"

#include <string>

#include "router/rpc/grpc_codec.h"

namespace longhaul::router::rpc {
namespace {

class RefusedStream final : public grpc::ServerWriteReactor<grpc::ByteBuffer> {
 public:
  explicit RefusedStream(const absl::Status& status) { Finish(ToGrpc(status)); }
  void OnDone() override { delete this; }
};

}  // namespace

void AddErrorDetail(grpc::CallbackServerContext& context, const absl::Status& status) {
  if (const std::string trailer = ErrorDetailTrailer(status); !trailer.empty()) {
    context.AddTrailingMetadata(kErrorDetailTrailer, trailer);
  }
}

void FinishUnary(grpc::CallbackServerContext& context, grpc::ServerUnaryReactor& reactor,
                 const absl::Status& status) {
  AddErrorDetail(context, status);
  reactor.Finish(ToGrpc(status));
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* RefuseStream(grpc::CallbackServerContext& context,
                                                         const absl::Status& status) {
  AddErrorDetail(context, status);
  return new RefusedStream(status);
}

}  // namespace longhaul::router::rpc
