#include "worker/backend/cpu_sampling.h"

#include <vector>

#include "kernels/logprobs/logprobs.h"
#include "kernels/sampling/sampling.h"
#include "worker/backend/sampled_token.h"

namespace longhaul::worker::backend {

absl::StatusOr<GeneratedToken> SampleOnCpu(const SampleRow& row) {
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
      .logits = row.logits.f32(),
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
  return SampledToken(status, result, row);
}

absl::StatusOr<GeneratedToken> LogprobsOnCpu(const LogprobsRow& row) {
  const int32_t vocab_size = static_cast<int32_t>(row.logits.cols);
  const kernels::LogprobsParams params = {.logits = row.logits.f32(),
                                          .vocab_size = vocab_size,
                                          .token = row.token,
                                          .num_top = row.num_top};
  kernels::Logprobs result;
  const kernels::KernelStatus status = kernels::LogprobsCpu(params, &result);
  return ScoredToken(status, result, row);
}

}  // namespace longhaul::worker::backend
