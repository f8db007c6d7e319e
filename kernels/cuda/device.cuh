#pragma once

#include <cuda_runtime.h>

#include "kernels/device_stream.h"
#include "kernels/status.h"

// What every launcher asks of the current device.

namespace longhaul::kernels {

inline cudaStream_t StreamOf(DeviceStream stream) {
  return static_cast<cudaStream_t>(stream.handle);
}

// Whether the launch before was accepted. What went wrong stays cudaGetLastError's, for the caller.
inline KernelStatus LaunchStatus() {
  return cudaPeekAtLastError() == cudaSuccess ? KernelStatus::kOk : KernelStatus::kLibraryFailure;
}

struct DeviceFacts {
  int multiprocessors = 0;
  int architecture = 0;  // 90 for sm_90
};

// kLibraryFailure without a device.
inline KernelStatus ReadDeviceFacts(DeviceFacts* facts) {
  int device = 0;
  int major = 0;
  int minor = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&facts->multiprocessors, cudaDevAttrMultiProcessorCount, device) !=
          cudaSuccess ||
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess ||
      cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) != cudaSuccess) {
    return KernelStatus::kLibraryFailure;
  }
  facts->architecture = 10 * major + minor;
  return KernelStatus::kOk;
}

}  // namespace longhaul::kernels
