#include "kernels/cpu_isa.h"

namespace longhaul::kernels {

CpuIsa BestCpuIsa() {
#ifdef LONGHAUL_KERNELS_X86
  static const CpuIsa best = [] {
    if (!__builtin_cpu_supports("fma")) return CpuIsa::kPortable;
    if (__builtin_cpu_supports("avx512f")) return CpuIsa::kAvx512;
    return __builtin_cpu_supports("avx2") ? CpuIsa::kAvx2 : CpuIsa::kPortable;
  }();
  return best;
#else
  return CpuIsa::kPortable;
#endif
}

}  // namespace longhaul::kernels
