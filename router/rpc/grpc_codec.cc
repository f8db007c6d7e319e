#include "router/rpc/grpc_codec.h"

#include <utility>

#include "router/error_detail.h"

namespace longhaul::router::rpc {
namespace {

SamplingOptions FromProto(const v1::Sampling& from) {
  SamplingOptions to;
  if (from.has_temperature()) to.temperature = from.temperature();
  if (from.has_top_p()) to.top_p = from.top_p();
  if (from.has_top_k()) to.top_k = from.top_k();
  if (from.has_min_p()) to.min_p = from.min_p();
  if (from.has_repetition_penalty()) to.repetition_penalty = from.repetition_penalty();
  if (from.has_presence_penalty()) to.presence_penalty = from.presence_penalty();
  if (from.has_frequency_penalty()) to.frequency_penalty = from.frequency_penalty();
  if (from.has_seed()) to.seed = from.seed();
  for (const auto& [token, bias] : from.logit_bias()) {
    // An id above 2^31 becomes negative, which no vocabulary has either.
    to.logit_bias.emplace_back(static_cast<TokenId>(token), bias);
  }
  return to;
}

void FillOptions(const v1::GenerateOptions& from, GenerateRequest& to) {
  to.sampling = FromProto(from.sampling());
  if (from.has_top_logprobs()) to.sampling.top_logprobs = from.top_logprobs();
  if (from.has_prompt_logprobs()) to.sampling.prompt_logprobs = from.prompt_logprobs();
  to.echo = from.echo();
  const v1::Stopping& stopping = from.stopping();
  if (stopping.has_max_tokens()) to.max_tokens = stopping.max_tokens();
  to.min_tokens = stopping.min_tokens();
  to.ignore_eos = stopping.ignore_eos();
  to.stop_token_ids.assign(stopping.stop_token_ids().begin(), stopping.stop_token_ids().end());
  to.stop.assign(from.stop().begin(), from.stop().end());
  if (from.has_n()) to.num_choices = from.n();
  to.priority = from.priority();
  if (from.has_truncate_prompt_tokens()) to.truncate_prompt_tokens = from.truncate_prompt_tokens();
  to.client_request_id = from.request_id().empty() ? to.id.ToString() : from.request_id();
}

text::ChatMessage FromProto(const v1::ChatMessage& from) {
  text::ChatMessage to{.role = from.role(), .content = from.content()};
  if (to.role == "developer") to.role = "system";  // its newer name at OpenAI
  for (const v1::ToolCall& call : from.tool_calls()) {
    to.tool_calls.push_back({call.id(), call.function().name(), call.function().arguments_json()});
  }
  to.tool_call_id = from.tool_call_id();
  return to;
}

void FillToken(const GeneratedToken& from, const TokenBytes& token_bytes, v1::GeneratedToken& to) {
  to.set_token_id(static_cast<uint32_t>(from.token));
  to.set_token_bytes(token_bytes(from.token));
  if (from.logprob) to.set_logprob(*from.logprob);
  for (const TokenLogprob& top : from.top_logprobs) {
    v1::TokenLogprob& logprob = *to.add_top_logprobs();
    logprob.set_token_id(static_cast<uint32_t>(top.token));
    logprob.set_logprob(top.logprob);
    logprob.set_token_bytes(token_bytes(top.token));
  }
}

v1::FinishReason ToProto(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return v1::FINISH_REASON_STOP;
    case FinishReason::kLength:
      return v1::FINISH_REASON_LENGTH;
    case FinishReason::kCancelled:
      return v1::FINISH_REASON_CANCELLED;
  }
  return v1::FINISH_REASON_UNSPECIFIED;
}

}  // namespace

ChatInput ChatFromProto(const google::protobuf::RepeatedPtrField<v1::ChatMessage>& messages,
                        const google::protobuf::RepeatedPtrField<v1::Tool>& tools) {
  ChatInput chat;
  for (const v1::ChatMessage& message : messages) chat.messages.push_back(FromProto(message));
  for (const v1::Tool& tool : tools) chat.tools_json.push_back(tool.function_json());
  return chat;
}

GenerateRequest FromProto(const v1::ChatRequest& from) {
  GenerateRequest to;
  to.model = from.model();
  to.input = ChatFromProto(from.messages(), from.tools());
  FillOptions(from.options(), to);
  return to;
}

absl::StatusOr<GenerateRequest> FromProto(const v1::CompleteRequest& from) {
  GenerateRequest to;
  to.model = from.model();
  switch (from.input_case()) {
    case v1::CompleteRequest::kPrompt:
      to.input = TextInput{from.prompt()};
      break;
    case v1::CompleteRequest::kPromptIds:
      to.input = TokenInput{{from.prompt_ids().ids().begin(), from.prompt_ids().ids().end()}};
      break;
    case v1::CompleteRequest::INPUT_NOT_SET:
      return InvalidField("prompt", "neither prompt nor prompt_ids is given, one is needed");
  }
  FillOptions(from.options(), to);
  return to;
}

v1::GenerateEvent ToProto(const QueuedEvent& event, const std::string& request_id) {
  v1::GenerateEvent to;
  v1::Queued& queued = *to.mutable_queued();
  queued.set_request_id(request_id);
  queued.set_position(static_cast<uint32_t>(event.position));
  if (event.predicted_wait_seconds) {
    queued.set_predicted_wait_seconds(*event.predicted_wait_seconds);
  }
  queued.set_prompt_tokens(static_cast<uint32_t>(event.prompt_tokens));
  return to;
}

v1::GenerateEvent ToProto(const ProgressEvent& event) {
  v1::GenerateEvent to;
  v1::Progress& progress = *to.mutable_progress();
  progress.set_prompt_tokens(static_cast<uint32_t>(event.prompt_tokens));
  progress.set_cached_tokens(static_cast<uint32_t>(event.cached_tokens));
  progress.set_processed_tokens(static_cast<uint32_t>(event.processed_tokens));
  if (event.eta_seconds) progress.set_eta_seconds(*event.eta_seconds);
  return to;
}

v1::GenerateEvent ToProto(const PromptEvent& event, const TokenBytes& token_bytes) {
  v1::GenerateEvent to;
  v1::PromptTokens& prompt = *to.mutable_prompt_tokens();
  prompt.set_choice(static_cast<uint32_t>(event.choice));
  prompt.set_text(event.text);
  prompt.set_begin(static_cast<uint32_t>(event.begin));
  for (const GeneratedToken& token : event.tokens)
    FillToken(token, token_bytes, *prompt.add_tokens());
  return to;
}

v1::GenerateEvent ToProto(const DeltaEvent& event, const TokenBytes& token_bytes) {
  v1::GenerateEvent to;
  v1::Delta& delta = *to.mutable_delta();
  delta.set_choice(static_cast<uint32_t>(event.choice));
  delta.set_text(event.text);
  for (const GeneratedToken& token : event.tokens)
    FillToken(token, token_bytes, *delta.add_tokens());
  return to;
}

v1::GenerateEvent ToProto(const FinishedEvent& event) {
  v1::GenerateEvent to;
  v1::Finished& finished = *to.mutable_finished();
  finished.set_choice(static_cast<uint32_t>(event.choice));
  finished.set_reason(ToProto(event.reason));
  finished.mutable_usage()->set_prompt_tokens(static_cast<uint32_t>(event.usage.prompt_tokens));
  finished.mutable_usage()->set_cached_tokens(static_cast<uint32_t>(event.usage.cached_tokens));
  finished.mutable_usage()->set_completion_tokens(
      static_cast<uint32_t>(event.usage.completion_tokens));
  if (event.time_to_first_token_seconds) {
    finished.set_time_to_first_token_seconds(*event.time_to_first_token_seconds);
  }
  finished.set_stop(event.stop);
  return to;
}

v1::Model ToProto(const ModelInfo& model) {
  v1::Model to;
  to.set_id(model.id);
  to.set_max_model_len(static_cast<uint32_t>(model.max_model_len));
  to.set_healthy_groups(static_cast<uint32_t>(model.healthy_groups));
  return to;
}

grpc::Status ToGrpc(const absl::Status& status) {
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), std::string(status.message()));
}

std::string ErrorDetailTrailer(const absl::Status& status) {
  const ErrorDetail detail = DetailOf(status);
  v1::ErrorDetail to;
  to.set_field(detail.field);
  if (detail.retry_after_seconds) to.set_retry_after_seconds(*detail.retry_after_seconds);
  return to.SerializeAsString();
}

}  // namespace longhaul::router::rpc
