#pragma once

#include <memory>

#include "worker/backend/backend.h"

namespace longhaul::worker::backend {

// The CPU's backend: kernels on a pool of `num_threads` threads (0 = one per usable core), the
// caller's included. Memory is anonymous mappings, touched on first use.
std::unique_ptr<Backend> MakeCpuBackend(int num_threads);

}  // namespace longhaul::worker::backend
