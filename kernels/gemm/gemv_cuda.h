#pragma once

#include <cstdint>

#include "kernels/device_stream.h"
#include "kernels/gemm/gemm_cuda.h"
#include "kernels/status.h"

namespace longhaul::kernels {

inline constexpr int64_t kMaxGemvRows = 2;

// The product of gemm_cuda.h for M <= kMaxGemvRows, bound by reading the weight. Bias with either
// output and with adds. A row's bits do not depend on M. kInvalidArgument for sizes or pointers
// outside the contract there, or more rows.
KernelStatus GemvCuda(const GemmCudaParams& p, DeviceStream stream);

// y [M, N / 2] = silu(gate) * up of [gate | up] [M, N] = x W^T + bias, with the bits of GemvCuda to
// bf16 and then SiluMulCuda. kInvalidArgument also unless N is a multiple of 16, for y_fp32 and for
// adds.
KernelStatus GatedGemvCuda(const GemmCudaParams& p, DeviceStream stream);

}  // namespace longhaul::kernels
