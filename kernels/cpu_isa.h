#pragma once

#include <cstdint>

namespace longhaul::kernels {

// Instruction sets that CPU kernels have code for, in ascending order of preference.
enum class CpuIsa : uint8_t {
  kPortable = 0,  // 128-bit vectors, what every machine of the target has
  kAvx2 = 1,      // AVX2 and FMA
  kAvx512 = 2,    // AVX-512F and FMA
};

// The best one that this build has and this machine runs. Thread-safe; constant in a process.
CpuIsa BestCpuIsa();

}  // namespace longhaul::kernels
