#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <initializer_list>

#include "kernels/status.h"

namespace longhaul::kernels {

// How the copy engine (TMA) reads a tensor in global memory, in boxes that arrive in shared memory
// with the 128-byte swizzle: a box's rows have 128 bytes. What lies outside arrives as zeros.
// `sizes` and `box` in elements, fastest first; `strides` in bytes, of the second dimension on.
// The driver's function is found at run time: a program need not link the driver, which is only
// where a GPU is.
inline KernelStatus MakeTensorMap(CUtensorMapDataType type, const void* base,
                                  std::initializer_list<uint64_t> sizes,
                                  std::initializer_list<uint64_t> strides,
                                  std::initializer_list<uint32_t> box, CUtensorMap* map) {
  using Encode =
      CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                   const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave,
                   CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
  static const Encode encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found;
    const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function,
                                                               12000, cudaEnableDefault, &found);
    return error == cudaSuccess && found == cudaDriverEntryPointSuccess
               ? reinterpret_cast<Encode>(function)
               : nullptr;
  }();
  if (encode == nullptr) return KernelStatus::kLibraryFailure;
  constexpr cuuint32_t kDense[] = {1, 1, 1, 1, 1};
  const CUresult result =
      encode(map, type, static_cast<cuuint32_t>(sizes.size()), const_cast<void*>(base),
             reinterpret_cast<const cuuint64_t*>(sizes.begin()),
             reinterpret_cast<const cuuint64_t*>(strides.begin()), box.begin(), kDense,
             CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? KernelStatus::kOk : KernelStatus::kInvalidArgument;
}

}  // namespace longhaul::kernels
