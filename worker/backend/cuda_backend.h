#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "worker/backend/backend.h"

namespace longhaul::worker::backend {

struct CudaOptions {
  bool graphs = true;  // decode steps are recorded and launched as one
};

// A CUDA device by its number on this host: bf16 activations and weights, bf16 KV (K by token), a
// stream of its own for each lane. Made on one thread, it may be used on another, but on one at a
// time, and no other code of these threads may change their device.
//
// Errors: kFailedPrecondition without a driver, a device of that number, or cuBLASLt.
absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(int device,
                                                         const CudaOptions& options = {});

}  // namespace longhaul::worker::backend
