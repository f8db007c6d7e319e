#pragma once

#include <cstdint>

#include "kernels/parallel.h"
#include "kernels/status.h"

namespace longhaul::kernels {

// x += y, elementwise: the residual stream takes up a layer's output.
struct AddParams {
  float* x = nullptr;        // [size], in and out
  const float* y = nullptr;  // [size]
  int64_t size = 0;          // >= 0
};

KernelStatus AddCpu(const AddParams& p, Parallel& parallel);
KernelStatus AddRef(const AddParams& p);

}  // namespace longhaul::kernels
