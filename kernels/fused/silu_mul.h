#pragma once

#include <cstdint>

#include "kernels/device_stream.h"
#include "kernels/kv_cache/bfloat16.h"
#include "kernels/parallel.h"
#include "kernels/status.h"

namespace longhaul::kernels {

// out = silu(gate) * up with silu(v) = v / (1 + exp(-v)).
// Gate and up may be the two halves of the rows of one [T, 2I] tensor (strides of 2I).
template <typename Element>
struct SiluMulParams {
  const Element* gate = nullptr;  // [T, I], rows gate_stride apart
  const Element* up = nullptr;    // [T, I], rows up_stride apart
  int64_t gate_stride = 0;        // elements, >= I
  int64_t up_stride = 0;          // elements, >= I
  int64_t num_rows = 0;           // T >= 0
  int64_t cols = 0;               // I >= 1
  Element* out = nullptr;         // [T, I] dense; overlaps no input
};

// An element's bits depend on its two inputs only.
KernelStatus SiluMulCpu(const SiluMulParams<float>& p, Parallel& parallel);
KernelStatus SiluMulRef(const SiluMulParams<float>& p);

// In fp32 within, with an exp of fp32's accuracy, rounded once. kInvalidArgument unless I and the
// strides are multiples of 8 and pointers are 16-byte aligned.
KernelStatus SiluMulCuda(const SiluMulParams<BFloat16>& p, DeviceStream stream);

}  // namespace longhaul::kernels
