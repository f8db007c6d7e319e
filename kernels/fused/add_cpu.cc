#include <algorithm>

#include "kernels/fused/add.h"

namespace longhaul::kernels {
namespace {

constexpr int64_t kTaskElements = 32768;  // a task's two inputs fit in the second-level cache

}  // namespace

KernelStatus AddCpu(const AddParams<float>& p, Parallel& parallel) {
  if (p.size < 0 || (p.size > 0 && (p.x == nullptr || p.y == nullptr))) {
    return KernelStatus::kInvalidArgument;
  }
  parallel.Run((p.size + kTaskElements - 1) / kTaskElements, [&p](int64_t task) {
    const int64_t begin = task * kTaskElements;
    const int64_t end = std::min(begin + kTaskElements, p.size);
    for (int64_t i = begin; i < end; ++i) p.x[i] += p.y[i];
  });
  return KernelStatus::kOk;
}

}  // namespace longhaul::kernels
