#pragma once

#include <grpcpp/support/status.h>

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "longhaul/v1/inference.pb.h"
#include "router/intake.h"
#include "router/request.h"

// inference.proto to the router's own structs and back. Pure; knows no call. Values are copied as
// they are: ranges are checked in resolve_sampling.h.
namespace longhaul::router::rpc {

ChatInput ChatFromProto(const google::protobuf::RepeatedPtrField<v1::ChatMessage>& messages,
                        const google::protobuf::RepeatedPtrField<v1::Tool>& tools);
GenerateRequest FromProto(const v1::ChatRequest& from);
// Errors: InvalidField where the input is left out.
absl::StatusOr<GenerateRequest> FromProto(const v1::CompleteRequest& from);

v1::GenerateEvent ToProto(const QueuedEvent& event, const std::string& request_id);
v1::GenerateEvent ToProto(const ProgressEvent& event);
v1::GenerateEvent ToProto(const PromptEvent& event, const TokenBytes& token_bytes);
v1::GenerateEvent ToProto(const DeltaEvent& event, const TokenBytes& token_bytes);
v1::GenerateEvent ToProto(const FinishedEvent& event);
v1::Model ToProto(const ModelInfo& model);

grpc::Status ToGrpc(const absl::Status& status);

// The trailer "longhaul-error-bin" of a failed call: a serialised v1.ErrorDetail; empty if `status`
// carries no detail.
inline constexpr char kErrorDetailTrailer[] = "longhaul-error-bin";
std::string ErrorDetailTrailer(const absl::Status& status);

}  // namespace longhaul::router::rpc
