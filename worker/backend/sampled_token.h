#pragma once

#include "absl/status/statusor.h"
#include "common/types.h"
#include "kernels/logprobs/logprobs.h"
#include "kernels/sampling/sampling.h"
#include "kernels/status.h"
#include "worker/backend/backend.h"

namespace longhaul::worker::backend {

// What Backend::Sample and Backend::Logprobs return for a row, from what the kernels did.
absl::StatusOr<GeneratedToken> SampledToken(kernels::KernelStatus status,
                                            const kernels::SamplingResult& result,
                                            const SampleRow& row);
absl::StatusOr<GeneratedToken> ScoredToken(kernels::KernelStatus status,
                                           const kernels::Logprobs& logprobs,
                                           const LogprobsRow& row);

}  // namespace longhaul::worker::backend
