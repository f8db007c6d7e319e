#pragma once

namespace longhaul::kernels {

// A cudaStream_t, opaque: launchers are declared where no CUDA header is. A launcher enqueues its
// work there and returns; it allocates nothing, waits for nothing, and never uses the default
// stream.
struct DeviceStream {
  void* handle = nullptr;
  // Kernels of a decode step may start before those ahead have ended (cuda/chained_launch.cuh).
  bool chained = false;
};

}  // namespace longhaul::kernels
