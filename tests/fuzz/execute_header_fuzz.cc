// The header with which a router asks a leader to execute: refused, or every number of the request
// is in the range that the engine counts on.
#include <string_view>

#include "common/logging.h"
#include "longhaul/v1/worker.pb.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_target.h"
#include "worker/leader/worker_codec.h"

namespace longhaul::worker::leader {
namespace {

void Check(v1::ExecuteHeader header, bool is_ours) {
  const ServedModel model{
      .name = "demo", .vocab_size = 300, .max_model_len = 4096, .max_prompt_logprobs_tokens = 1000};
  if (is_ours) {
    header.set_model("demo");
    header.set_model_digest(model.digest.ToBytes());
  }
  const absl::Time now = absl::FromUnixSeconds(1700000000);
  const auto request = FromProto(header, model, now);
  if (!request.ok()) {
    CHECK(absl::IsInvalidArgument(request.status()) || absl::IsNotFound(request.status()) ||
          absl::IsFailedPrecondition(request.status()) || absl::IsUnimplemented(request.status()))
        << request.status();
    CHECK(!request.status().message().empty());
    return;
  }
  const SamplingParams& p = request->sampling;
  CHECK(p.temperature >= 0 && p.temperature <= 2 && p.top_p > 0 && p.top_p <= 1);
  CHECK(p.top_k >= 0 && p.min_p >= 0 && p.min_p <= 1);
  CHECK(p.repetition_penalty > 0 && p.repetition_penalty <= 10) << p.repetition_penalty;
  for (const auto& [id, bias] : p.logit_bias) CHECK(id >= 0 && id < 300 && bias >= -100) << id;
  CHECK(p.top_logprobs.value_or(0) >= 0 && p.top_logprobs.value_or(0) <= 20);
  CHECK(p.prompt_logprobs.value_or(0) >= 0 && p.prompt_logprobs.value_or(0) <= 20);
  CHECK(!p.prompt_logprobs.has_value() || header.prompt_tokens() <= 1000) << header.prompt_tokens();
  const StopParams& stop = request->stopping;
  CHECK(stop.max_tokens >= 0 && stop.max_tokens <= 4096) << stop.max_tokens;
  CHECK(stop.min_tokens >= 0 && stop.min_tokens <= stop.max_tokens) << stop.min_tokens;
  for (const TokenId id : stop.stop_token_ids) CHECK(id >= 0 && id < 300) << id;
  CHECK(request->tenant_salt.empty() || request->tenant_salt.size() == 16);
  CHECK(request->deadline > absl::InfinitePast());
}

}  // namespace
}  // namespace longhaul::worker::leader

// First byte: whether the header names the model that is served here; the rest is its message.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  longhaul::fuzz::FuzzInput input(data, size);
  const bool is_ours = input.Below(8) != 0;
  const std::string_view bytes = input.Rest();
  longhaul::v1::ExecuteHeader header;
  if (!header.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return -1;
  longhaul::worker::leader::Check(std::move(header), is_ours);
  return 0;
}
