#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "kernels/device_stream.h"
#include "kernels/kv_cache/bfloat16.h"
#include "kernels/status.h"

namespace longhaul::kernels {

// y = x W^T + bias, or y += x W^T, on a CUDA device: bf16 inputs, fp32 sums.
struct GemmCudaParams {
  // Inputs, device memory, 16-byte aligned.
  const BFloat16* x = nullptr;       // [M, K]
  const BFloat16* weight = nullptr;  // [N, K]
  const BFloat16* bias = nullptr;    // [N], or null; null with y_fp32 or adds
  int64_t m = 0;                     // rows >= 0
  int64_t n = 0;                     // >= 1, a multiple of 8
  int64_t k = 0;                     // >= 1, a multiple of 8
  // y is read too: the product is added to what is there. Up to two rows it is not rounded before;
  // cuBLASLt rounds it first, then the sum.
  bool adds = false;
  // Output, device memory, 16-byte aligned: exactly one of them. Overlaps no input.
  BFloat16* y = nullptr;    // [M, N], rounded once unless `adds`
  float* y_fp32 = nullptr;  // [M, N]
};

// Device memory that a GemmCuda holds.
inline constexpr size_t kGemmCudaWorkspaceBytes = size_t{32} << 20;

// Linear layers, by cuBLASLt with algorithms that are fixed: for M >= 128 one for each (N, K,
// output type, bias or none), without split-K or stream-K, so that a row's bits do not depend on M;
// below, one for each power of two that M fits in. They are cuBLASLt's own first answers: the same
// in every process with one version of it on one kind of device. Up to 2 rows go to a kernel of our
// own (gemv_cuda.h), where a row's bits do not depend on M either. Keeps a handle, its algorithms
// and a workspace. Not thread-safe: one for each executor thread and device, and its calls on one
// stream, whose order keeps them from sharing the workspace.
class GemmCuda {
 public:
  // On the current device. Null if cuBLASLt or its workspace cannot be had.
  static std::unique_ptr<GemmCuda> Create();
  virtual ~GemmCuda() = default;

  // Chooses the algorithm of p's sizes and types now, so that the first call does not: optional,
  // but before a CUDA graph is captured. x and weight may be null; of y, y_fp32 and bias it matters
  // which are.
  virtual KernelStatus Prepare(const GemmCudaParams& p) = 0;
  // kInvalidArgument for sizes or pointers outside the above; kUnimplemented for a bias with
  // y_fp32 or adds; kLibraryFailure.
  virtual KernelStatus Run(const GemmCudaParams& p, DeviceStream stream) = 0;
};

}  // namespace longhaul::kernels
