#include "kernels/fused/add.h"

namespace longhaul::kernels {

KernelStatus AddRef(const AddParams<float>& p) {
  if (p.size < 0) return KernelStatus::kInvalidArgument;
  for (int64_t i = 0; i < p.size; ++i) p.x[i] = static_cast<float>(double{p.x[i]} + double{p.y[i]});
  return KernelStatus::kOk;
}

}  // namespace longhaul::kernels
