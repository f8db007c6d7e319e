#include <algorithm>
#include <cstring>

#include "kernels/fused/embedding.h"

namespace longhaul::kernels {
namespace {

constexpr int64_t kTaskRows = 64;

}  // namespace

KernelStatus EmbeddingCpu(const EmbeddingParams<float>& p, Parallel& parallel) {
  if (p.num_rows < 0 || p.vocab_size <= 0 || p.hidden <= 0) return KernelStatus::kInvalidArgument;
  for (int64_t t = 0; t < p.num_rows; ++t) {
    if (p.ids[t] < 0 || p.ids[t] >= p.vocab_size) return KernelStatus::kInvalidArgument;
  }
  const size_t row_bytes = sizeof(float) * static_cast<size_t>(p.hidden);
  parallel.Run((p.num_rows + kTaskRows - 1) / kTaskRows, [&p, row_bytes](int64_t task) {
    const int64_t end = std::min((task + 1) * kTaskRows, p.num_rows);
    for (int64_t t = task * kTaskRows; t < end; ++t) {
      std::memcpy(p.out + t * p.hidden, p.table + int64_t{p.ids[t]} * p.hidden, row_bytes);
    }
  });
  return KernelStatus::kOk;
}

}  // namespace longhaul::kernels
