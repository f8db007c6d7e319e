// kernels/gemm/gemm.h without oneDNN, for a binary that is to run where that is not installed: this
// object comes before the library's, which is then left out.
#include "kernels/gemm/gemm.h"

namespace longhaul::kernels {

size_t GemmCpuWorkspaceBytes(const GemmParams& /*p*/) { return 0; }

KernelStatus GemmCpu(const GemmParams& p, Parallel& /*parallel*/) { return GemmRef(p); }

}  // namespace longhaul::kernels
