#pragma once

#include "absl/status/statusor.h"
#include "common/types.h"
#include "worker/backend/backend.h"

namespace longhaul::worker::backend {

// Backend::Sample and Backend::Logprobs of one row, on the calling thread: `logits` [V] are the
// row's in host memory; row.logits gives their number alone. Errors: as Backend says of a row's.
absl::StatusOr<GeneratedToken> SampleOnHost(const SampleRow& row, const float* logits);
absl::StatusOr<GeneratedToken> LogprobsOnHost(const LogprobsRow& row, const float* logits);

}  // namespace longhaul::worker::backend
