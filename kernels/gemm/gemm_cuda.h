#pragma once

#include <cstdint>
#include <memory>

#include "kernels/device_stream.h"
#include "kernels/kv_cache/bfloat16.h"
#include "kernels/status.h"

namespace longhaul::kernels {

// y = x W^T + bias on a CUDA device: bf16 inputs, fp32 sums.
struct GemmCudaParams {
  // Inputs, device memory, 16-byte aligned.
  const BFloat16* x = nullptr;       // [M, K]
  const BFloat16* weight = nullptr;  // [N, K]
  const BFloat16* bias = nullptr;    // [N], or null
  int64_t m = 0;                     // rows >= 0
  int64_t n = 0;                     // >= 1, a multiple of 8
  int64_t k = 0;                     // >= 1, a multiple of 8
  // Output, device memory: exactly one of them.
  BFloat16* y = nullptr;    // [M, N], rounded once
  float* y_fp32 = nullptr;  // [M, N]
};

// Linear layers by cuBLASLt, with algorithms that are fixed: for M >= 128 one for each (N, K,
// types), without split-K or stream-K, so that a row's bits do not depend on M; below, one for each
// power of two that M fits in. Keeps a handle, its algorithms and a workspace. Not thread-safe: one
// for each executor thread and device.
class GemmCuda {
 public:
  // On the current device. Null if cuBLASLt or its workspace cannot be had.
  static std::unique_ptr<GemmCuda> Create();
  virtual ~GemmCuda() = default;

  // Chooses the algorithms of an (N, K) now, so that the first call does not: optional.
  virtual KernelStatus Prepare(const GemmCudaParams& p) = 0;
  // kInvalidArgument for sizes or pointers outside the above; kLibraryFailure.
  virtual KernelStatus Run(const GemmCudaParams& p, DeviceStream stream) = 0;
};

}  // namespace longhaul::kernels
