#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <type_traits>

#include "kernels/cuda/device.cuh"
#include "kernels/device_stream.h"
#include "kernels/status.h"

// The kernels of a decode step take microseconds each, and memory must not pause between them. On
// a chained stream a kernel may start once every block of the one before has started
// (programmatic dependent launch): it reads what the step does not write, weights above all, while
// the one before still works, and then waits for it.
//
// Every kernel that is launched so calls both functions below, in every thread of every block, also
// where it needs nothing of the kernels before: the next one waits for its end alone, and takes it
// for the end of all before it. What earlier kernels write is not read through __ldg, which the
// compiler may move up. Kernels launched otherwise may stand between: they wait for all before
// them. Where there is no such instruction both do nothing, and launches are ordinary ones.

namespace longhaul::kernels {

// As early as may be: from now on this block does not keep the next kernel from starting.
__device__ inline void LetNextKernelStart() {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Until all kernels before have ended. Before it nothing is written, and nothing read but what was
// there before the step: weights, plans of rows, keys and values of former tokens.
__device__ inline void AwaitEarlierKernels() {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// kernel<<<grid, block, shared_bytes, stream>>>(args...).
template <typename... Params>
KernelStatus LaunchChained(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes,
                           DeviceStream stream, std::type_identity_t<Params>... args) {
  DeviceFacts device;
  if (stream.chained) {
    const KernelStatus facts = ReadDeviceFacts(&device);
    if (facts != KernelStatus::kOk) return facts;
  }
  cudaLaunchAttribute early = {};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = StreamOf(stream);
  config.attrs = &early;
  // The code of every other device, newer ones too, is without the instruction that waits.
  config.numAttrs = device.architecture == 90 ? 1 : 0;
  cudaLaunchKernelEx(&config, kernel, args...);  // its error is that of LaunchStatus
  return LaunchStatus();
}

}  // namespace longhaul::kernels
