#pragma once

#include <cstdint>

#include "kernels/parallel.h"
#include "kernels/status.h"

namespace longhaul::kernels {

// out = silu(gate) * up with silu(v) = v / (1 + exp(-v)).
// Gate and up may be the two halves of the rows of one [T, 2I] tensor (strides of 2I).
struct SiluMulParams {
  const float* gate = nullptr;  // [T, I], rows gate_stride apart
  const float* up = nullptr;    // [T, I], rows up_stride apart
  int64_t gate_stride = 0;      // elements, >= I
  int64_t up_stride = 0;        // elements, >= I
  int64_t num_rows = 0;         // T >= 0
  int64_t cols = 0;             // I >= 1
  float* out = nullptr;         // [T, I] dense; overlaps no input
};

// An element's bits depend on its two inputs only.
KernelStatus SiluMulCpu(const SiluMulParams& p, Parallel& parallel);
KernelStatus SiluMulRef(const SiluMulParams& p);

}  // namespace longhaul::kernels
