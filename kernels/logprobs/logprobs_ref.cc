#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/logprobs/logprobs.h"

namespace longhaul::kernels {

KernelStatus LogprobsRef(const LogprobsParams& p, Logprobs* result) {
  if (p.vocab_size < 1 || p.token < 0 || p.token >= p.vocab_size || p.num_top < 0 ||
      p.num_top > kMaxTopLogprobs) {
    return KernelStatus::kInvalidArgument;
  }
  std::vector<int32_t> ids(static_cast<size_t>(p.vocab_size));
  for (int32_t id = 0; id < p.vocab_size; ++id) {
    if (std::isnan(p.logits[id]) || p.logits[id] == HUGE_VALF) return KernelStatus::kNotFinite;
    ids[static_cast<size_t>(id)] = id;
  }
  std::stable_sort(ids.begin(), ids.end(),
                   [&](int32_t a, int32_t b) { return p.logits[a] > p.logits[b]; });
  const double max = p.logits[ids[0]];
  if (max == -HUGE_VAL) return KernelStatus::kNotFinite;
  double sum = 0;  // smallest first
  for (auto id = ids.rbegin(); id != ids.rend(); ++id) sum += std::exp(p.logits[*id] - max);
  const auto logprob = [&](int32_t id) {
    return static_cast<float>(p.logits[id] - max - std::log(sum));
  };
  *result = Logprobs{};
  result->logprob = logprob(p.token);
  result->num_top = std::min(p.num_top, p.vocab_size);
  for (int32_t i = 0; i < result->num_top; ++i) {
    result->top_ids[i] = ids[static_cast<size_t>(i)];
    result->top_logprobs[i] = logprob(ids[static_cast<size_t>(i)]);
  }
  return KernelStatus::kOk;
}

}  // namespace longhaul::kernels
