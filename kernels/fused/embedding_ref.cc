#include "kernels/fused/embedding.h"

namespace longhaul::kernels {

KernelStatus EmbeddingRef(const EmbeddingParams<float>& p) {
  for (int64_t t = 0; t < p.num_rows; ++t) {
    if (p.ids[t] < 0 || p.ids[t] >= p.vocab_size) return KernelStatus::kInvalidArgument;
  }
  for (int64_t t = 0; t < p.num_rows; ++t) {
    for (int64_t e = 0; e < p.hidden; ++e) {
      p.out[t * p.hidden + e] = p.table[int64_t{p.ids[t]} * p.hidden + e];
    }
  }
  return KernelStatus::kOk;
}

}  // namespace longhaul::kernels
