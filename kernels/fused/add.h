#pragma once

#include <cstdint>

#include "kernels/device_stream.h"
#include "kernels/kv_cache/bfloat16.h"
#include "kernels/parallel.h"
#include "kernels/status.h"

namespace longhaul::kernels {

// x += y, elementwise: the residual stream takes up a layer's output.
template <typename Element>
struct AddParams {
  Element* x = nullptr;        // [size], in and out
  const Element* y = nullptr;  // [size]
  int64_t size = 0;            // >= 0
};

KernelStatus AddCpu(const AddParams<float>& p, Parallel& parallel);
KernelStatus AddRef(const AddParams<float>& p);

// Adds in fp32, rounds once. kInvalidArgument unless size is a multiple of 8 and pointers are
// 16-byte aligned.
KernelStatus AddCuda(const AddParams<BFloat16>& p, DeviceStream stream);

}  // namespace longhaul::kernels
