#include "worker/backend/host_sampling.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "kernels/logprobs/logprobs.h"
#include "kernels/sampling/sampling.h"
#include "worker/backend/kernel_status.h"

namespace longhaul::worker::backend {
namespace {

// What became of a row of logits.
absl::Status RowStatus(kernels::KernelStatus status, const char* op, int32_t vocab_size) {
  if (status == kernels::KernelStatus::kNotFinite) {
    return absl::InternalError("logits hold NaN or Inf");
  }
  if (status == kernels::KernelStatus::kNoCandidate) {
    return absl::InternalError("every token is banned");
  }
  return ToStatus(status, op, absl::StrCat("vocabulary ", vocab_size));
}

GeneratedToken TokenOf(TokenId token, const kernels::Logprobs& logprobs) {
  GeneratedToken out;
  out.token = token;
  out.logprob = logprobs.logprob;
  for (int32_t i = 0; i < logprobs.num_top; ++i) {
    out.top_logprobs.push_back({logprobs.top_ids[i], logprobs.top_logprobs[i]});
  }
  return out;
}

}  // namespace

absl::StatusOr<GeneratedToken> SampleOnHost(const SampleRow& row, const float* logits) {
  const SamplingParams& wanted = *row.params;
  const int32_t vocab_size = static_cast<int32_t>(row.logits.cols);
  std::vector<int32_t> bias_ids;
  std::vector<float> bias_values;
  for (const auto& [id, bias] : wanted.logit_bias) {
    bias_ids.push_back(id);
    bias_values.push_back(bias);
  }
  std::vector<uint64_t> workspace((kernels::SamplingWorkspaceBytes(vocab_size) + 7) / 8);
  const kernels::SamplingParams params = {
      .logits = logits,
      .vocab_size = vocab_size,
      .temperature = wanted.temperature,
      .top_k = wanted.top_k,
      .top_p = wanted.top_p,
      .min_p = wanted.min_p,
      .repetition_penalty = wanted.repetition_penalty,
      .seen = row.seen.empty() ? nullptr : row.seen.data(),
      .presence_penalty = wanted.presence_penalty,
      .frequency_penalty = wanted.frequency_penalty,
      .counts = row.output_counts.empty() ? nullptr : row.output_counts.data(),
      .bias_ids = bias_ids.data(),
      .bias_values = bias_values.data(),
      .num_bias = static_cast<int32_t>(bias_ids.size()),
      .banned_ids = row.banned.data(),
      .num_banned = static_cast<int32_t>(row.banned.size()),
      .seed = wanted.seed,
      .token_index = row.output_index,
      .num_top_logprobs = wanted.top_logprobs.value_or(0),
      .workspace = workspace.data()};
  kernels::SamplingResult result;
  const kernels::KernelStatus status = kernels::SamplingCpu(params, &result);
  RETURN_IF_ERROR(RowStatus(status, "sampling", vocab_size));
  if (wanted.top_logprobs.has_value()) return TokenOf(result.token, result);
  GeneratedToken token;
  token.token = result.token;
  return token;
}

absl::StatusOr<GeneratedToken> LogprobsOnHost(const LogprobsRow& row, const float* logits) {
  const int32_t vocab_size = static_cast<int32_t>(row.logits.cols);
  const kernels::LogprobsParams params = {
      .logits = logits, .vocab_size = vocab_size, .token = row.token, .num_top = row.num_top};
  kernels::Logprobs result;
  RETURN_IF_ERROR(RowStatus(kernels::LogprobsCpu(params, &result), "logprobs", vocab_size));
  return TokenOf(row.token, result);
}

}  // namespace longhaul::worker::backend
