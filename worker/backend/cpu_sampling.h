#pragma once

#include "absl/status/statusor.h"
#include "common/types.h"
#include "worker/backend/backend.h"

namespace longhaul::worker::backend {

// Backend::Sample and Backend::Logprobs of one row in host memory, on the calling thread.
absl::StatusOr<GeneratedToken> SampleOnCpu(const SampleRow& row);
absl::StatusOr<GeneratedToken> LogprobsOnCpu(const LogprobsRow& row);

}  // namespace longhaul::worker::backend
