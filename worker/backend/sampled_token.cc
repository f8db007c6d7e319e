#include "worker/backend/sampled_token.h"

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/backend/kernel_status.h"

namespace longhaul::worker::backend {
namespace {

// What became of a row of logits.
absl::Status RowStatus(kernels::KernelStatus status, const char* op, int64_t vocab_size) {
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

absl::StatusOr<GeneratedToken> SampledToken(kernels::KernelStatus status,
                                            const kernels::SamplingResult& result,
                                            const SampleRow& row) {
  RETURN_IF_ERROR(RowStatus(status, "sampling", row.logits.cols));
  if (row.params->top_logprobs.has_value()) return TokenOf(result.token, result);
  GeneratedToken token;
  token.token = result.token;
  return token;
}

absl::StatusOr<GeneratedToken> ScoredToken(kernels::KernelStatus status,
                                           const kernels::Logprobs& logprobs,
                                           const LogprobsRow& row) {
  RETURN_IF_ERROR(RowStatus(status, "logprobs", row.logits.cols));
  return TokenOf(row.token, logprobs);
}

}  // namespace longhaul::worker::backend
