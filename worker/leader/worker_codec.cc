#include "worker/leader/worker_codec.h"

#include <algorithm>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/step_plan_wire.h"

namespace longhaul::worker::leader {
namespace {

constexpr int kMaxStopTokens = 64;
constexpr int kMaxPriority = 100;
constexpr double kMaxDetachSeconds = 7 * 24 * 3600.0;

absl::Status Bad(const std::string& message) { return absl::InvalidArgumentError(message); }

absl::StatusOr<StopParams> StoppingFrom(const v1::Stopping& proto, const ServedModel& model) {
  if (!proto.has_max_tokens()) return Bad("stopping.max_tokens is missing");
  const auto limit = static_cast<uint32_t>(model.max_model_len);
  if (proto.max_tokens() > limit) {
    return Bad(absl::StrCat("max_tokens is ", proto.max_tokens(), ", limit ", limit));
  }
  if (proto.min_tokens() > proto.max_tokens()) {
    return Bad(
        absl::StrCat("min_tokens is ", proto.min_tokens(), ", max_tokens ", proto.max_tokens()));
  }
  if (proto.stop_token_ids_size() > kMaxStopTokens) {
    return Bad(absl::StrCat("stop_token_ids has ", proto.stop_token_ids_size(), " entries, limit ",
                            kMaxStopTokens));
  }
  StopParams stopping = {.max_tokens = static_cast<int32_t>(proto.max_tokens()),
                         .min_tokens = static_cast<int32_t>(proto.min_tokens()),
                         .ignore_eos = proto.ignore_eos(),
                         .stop_token_ids = {}};
  for (const uint32_t id : proto.stop_token_ids()) {
    if (id >= static_cast<uint32_t>(model.vocab_size)) {
      return Bad(absl::StrCat("stop_token_ids has ", id, ", vocabulary ", model.vocab_size));
    }
    stopping.stop_token_ids.push_back(static_cast<TokenId>(id));
  }
  return stopping;
}

absl::StatusOr<SamplingParams> SamplingFrom(const v1::ExecuteHeader& header,
                                            const ServedModel& model) {
  if (!header.has_sampling()) return Bad("sampling is missing");
  ASSIGN_OR_RETURN(SamplingParams sampling, worker::FromProto(header.sampling()));
  for (const auto& [token, bias] : sampling.logit_bias) {
    if (token >= model.vocab_size) {
      return Bad(absl::StrCat("logit_bias has token ", token, ", vocabulary ", model.vocab_size));
    }
  }
  if (header.has_top_logprobs()) {
    ASSIGN_OR_RETURN(sampling.top_logprobs, NumLogprobs("top_logprobs", header.top_logprobs()));
  }
  if (header.has_prompt_logprobs()) {
    ASSIGN_OR_RETURN(sampling.prompt_logprobs,
                     NumLogprobs("prompt_logprobs", header.prompt_logprobs()));
    if (header.prompt_tokens() > static_cast<uint32_t>(model.max_prompt_logprobs_tokens)) {
      return Bad(absl::StrCat("prompt has ", header.prompt_tokens(),
                              " tokens, limit with prompt_logprobs ",
                              model.max_prompt_logprobs_tokens, " (--max-prompt-logprobs-tokens)"));
    }
  }
  return sampling;
}

v1::FinishReason ToProto(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return v1::FINISH_REASON_STOP;
    case FinishReason::kLength:
      return v1::FINISH_REASON_LENGTH;
    case FinishReason::kCancelled:
      return v1::FINISH_REASON_CANCELLED;
    case FinishReason::kError:
      return v1::FINISH_REASON_ERROR;
  }
  return v1::FINISH_REASON_UNSPECIFIED;
}

struct EventEncoder {
  v1::ExecuteEvent& proto;

  void operator()(const AdmittedEvent& event) {
    proto.mutable_admitted()->set_cached_tokens(event.cached_tokens);
    proto.mutable_admitted()->set_predicted_wait_seconds(event.predicted_wait_seconds);
  }
  void operator()(const RejectedEvent& event) {
    proto.mutable_rejected()->set_predicted_wait_seconds(event.predicted_wait_seconds);
    proto.mutable_rejected()->set_reason(event.reason);
  }
  void operator()(const ProgressEvent& event) {
    v1::Progress* progress = proto.mutable_progress();
    progress->set_prompt_tokens(event.prompt_tokens);
    progress->set_cached_tokens(event.cached_tokens);
    progress->set_processed_tokens(event.processed_tokens);
    if (event.eta_seconds) progress->set_eta_seconds(*event.eta_seconds);
  }
  void operator()(const PromptLogprobsEvent& event) {
    v1::PromptLogprobs* logprobs = proto.mutable_prompt_logprobs();
    logprobs->set_begin(static_cast<uint32_t>(event.begin));
    for (const GeneratedToken& token : event.tokens) {
      worker::ToProto(token, logprobs->add_tokens());
    }
  }
  void operator()(const TokensEvent& event) {
    for (const GeneratedToken& token : event.tokens) {
      worker::ToProto(token, proto.mutable_tokens()->add_tokens());
    }
  }
  void operator()(const FinishedEvent& event) {
    v1::ExecuteFinished* finished = proto.mutable_finished();
    finished->set_reason(ToProto(event.reason));
    finished->set_prompt_tokens(event.prompt_tokens);
    finished->set_cached_tokens(event.cached_tokens);
    finished->set_completion_tokens(event.completion_tokens);
    finished->set_error(std::string(event.error.message()));
    finished->set_error_code(static_cast<int32_t>(event.error.code()));
  }
};

}  // namespace

RequestId FromProto(const v1::RequestId& id) { return {.high = id.high(), .low = id.low()}; }

absl::StatusOr<Request> FromProto(const v1::ExecuteHeader& header, const ServedModel& model,
                                  absl::Time now) {
  if (header.model() != model.name) {
    return absl::NotFoundError(
        absl::StrCat("model is \"", header.model(), "\", this leader serves \"", model.name, "\""));
  }
  if (header.model_digest() != model.digest.ToBytes()) {
    return absl::FailedPreconditionError(
        absl::StrCat("model_digest is not that of this leader's model, ", model.digest.ToString()));
  }
  Request request;
  request.id = FromProto(header.request_id());
  if (request.id == RequestId{}) return Bad("request_id is missing");
  if (header.prompt_tokens() == 0) return Bad("prompt_tokens is 0");
  if (header.prompt_tokens() > static_cast<uint32_t>(model.max_model_len)) {
    return Bad(absl::StrCat("prompt has ", header.prompt_tokens(), " tokens; limit ",
                            model.max_model_len, " (--max-model-len)"));
  }
  ASSIGN_OR_RETURN(request.sampling, SamplingFrom(header, model));
  ASSIGN_OR_RETURN(request.stopping, StoppingFrom(header.stopping(), model));
  if (header.priority() < -kMaxPriority || header.priority() > kMaxPriority) {
    return Bad(absl::StrCat("priority is ", header.priority(), ", limit +-", kMaxPriority));
  }
  request.priority = header.priority();
  request.arrival = now;
  if (header.has_deadline_seconds()) {
    // A NaN is as little a deadline as a negative number.
    if (!(header.deadline_seconds() >= 0)) {
      return Bad(absl::StrCat("deadline_seconds is ", header.deadline_seconds()));
    }
    request.deadline = now + absl::Seconds(header.deadline_seconds());
  }
  if (header.has_detach_ttl_seconds()) {
    if (!(header.detach_ttl_seconds() >= 0 && header.detach_ttl_seconds() <= kMaxDetachSeconds)) {
      return Bad(absl::StrCat("detach_ttl_seconds is ", header.detach_ttl_seconds(), ", limit ",
                              kMaxDetachSeconds));
    }
    request.detach_ttl = absl::Seconds(header.detach_ttl_seconds());
  }
  if (!header.tenant_salt().empty() && header.tenant_salt().size() != 16) {
    return Bad(absl::StrCat("tenant_salt has ", header.tenant_salt().size(),
                            " bytes, needed are 0 or 16"));
  }
  request.tenant_salt = header.tenant_salt();
  return request;
}

v1::ExecuteEvent ToProto(const Event& event, uint64_t number) {
  v1::ExecuteEvent proto;
  proto.set_number(number);
  std::visit(EventEncoder{proto}, event);
  return proto;
}

v1::Hello ToHello(const ServedModel& model, uint64_t incarnation) {
  v1::Hello hello;
  hello.set_protocol_version(kProtocolVersion);
  hello.set_incarnation(incarnation);
  hello.set_model(model.name);
  hello.set_model_digest(model.digest.ToBytes());
  hello.set_max_model_len(model.max_model_len);
  hello.set_kv_block_tokens(kKvBlockTokens);
  hello.set_kv_blocks(model.kv_blocks);
  hello.set_max_waiting_long(model.max_waiting_long);
  hello.set_long_prompt_tokens(model.long_prompt_tokens);
  hello.set_pipeline_parallel_size(model.pipeline_parallel_size);
  hello.set_tensor_parallel_size(model.tensor_parallel_size);
  hello.set_prefix_root(model.prefix_root.ToBytes());
  hello.set_prefix_root_max_tokens(model.prefix_root_max_tokens);
  return hello;
}

v1::Load ToProto(const Load& load, uint64_t sequence) {
  v1::Load proto;
  proto.set_sequence(sequence);
  proto.set_running_requests(load.running_requests);
  proto.set_waiting_requests(load.waiting_requests);
  proto.set_queued_prefill_tokens(load.queued_prefill_tokens);
  proto.set_queued_seconds(load.queued_seconds);
  proto.set_free_kv_blocks(load.free_kv_blocks);
  proto.set_ready(load.ready());
  proto.set_draining(load.draining);
  proto.mutable_cost()->set_c(load.cost.c);
  proto.mutable_cost()->set_g(load.cost.g);
  proto.mutable_cost()->set_b(load.cost.b);
  proto.mutable_cost()->set_a(load.cost.a);
  proto.mutable_cost()->set_reach_tokens(static_cast<uint64_t>(load.cost.reach_tokens));
  return proto;
}

v1::CacheDelta ToProto(bool reset, std::span<const Digest> added, std::span<const Digest> removed,
                       uint64_t sequence) {
  v1::CacheDelta proto;
  proto.set_sequence(sequence);
  proto.set_reset(reset);
  for (const Digest& identity : added) proto.add_added(identity.ToBytes());
  for (const Digest& identity : removed) proto.add_removed(identity.ToBytes());
  return proto;
}

}  // namespace longhaul::worker::leader
