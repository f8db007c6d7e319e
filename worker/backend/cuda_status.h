#pragma once

#include <cuda_runtime_api.h>

#include <string>

#include "absl/status/status.h"
#include "kernels/status.h"

namespace longhaul::worker::backend {

// OK, or an error that says what was attempted: kResourceExhausted for memory, kFailedPrecondition
// for a missing device or driver, else kInternal. Work that was enqueued earlier may be what
// failed.
absl::Status CudaStatus(cudaError_t error, const std::string& attempted);

// What became of a launch of the kernels of `op`: with CUDA's own error, which may be one of work
// before.
absl::Status Launched(kernels::KernelStatus status, const char* op, const std::string& sizes);

}  // namespace longhaul::worker::backend
