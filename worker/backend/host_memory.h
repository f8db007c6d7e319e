#pragma once

#include <cstdint>

namespace longhaul::worker::backend {

// Memory of this host that allocations could take now without taking it from others; an estimate.
// Thread-safe.
int64_t FreeHostMemoryBytes();

}  // namespace longhaul::worker::backend
