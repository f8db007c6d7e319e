#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/logprobs/logprobs.h"

namespace longhaul::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

bool Valid(const LogprobsParams& p) {
  return p.logits != nullptr && p.vocab_size >= 1 && p.token >= 0 && p.token < p.vocab_size &&
         p.num_top >= 0 && p.num_top <= kMaxTopLogprobs;
}

// The largest logits, kept in order while ids come in ascending order: of equals the first stays
// ahead, and one comparison turns away almost every logit of a large vocabulary.
void FindTop(const LogprobsParams& p, Logprobs& out) {
  const int32_t capacity = std::min(p.num_top, p.vocab_size);
  if (capacity == 0) return;
  float* const values = out.top_logprobs;  // logits, for now
  for (int32_t id = 0; id < p.vocab_size; ++id) {
    const float value = p.logits[id];
    if (out.num_top == capacity) {
      if (value <= values[capacity - 1]) continue;
    } else {
      ++out.num_top;
    }
    int32_t place = out.num_top - 1;
    for (; place > 0 && values[place - 1] < value; --place) {
      values[place] = values[place - 1];
      out.top_ids[place] = out.top_ids[place - 1];
    }
    values[place] = value;
    out.top_ids[place] = id;
  }
}

}  // namespace

KernelStatus LogprobsCpu(const LogprobsParams& p, Logprobs* result) {
  if (!Valid(p)) return KernelStatus::kInvalidArgument;
  float max = -kInfinity;
  for (int32_t id = 0; id < p.vocab_size; ++id) {
    if (!(p.logits[id] < kInfinity)) return KernelStatus::kNotFinite;  // NaN compares false
    max = std::max(max, p.logits[id]);
  }
  if (max == -kInfinity) return KernelStatus::kNotFinite;
  double sum = 0;
  for (int32_t id = 0; id < p.vocab_size; ++id) sum += std::exp(double{p.logits[id]} - max);
  const double log_sum = std::log(sum);
  const auto logprob = [&](float logit) {
    return static_cast<float>(double{logit} - max - log_sum);
  };

  Logprobs filled;
  filled.logprob = logprob(p.logits[p.token]);
  FindTop(p, filled);
  for (int32_t i = 0; i < filled.num_top; ++i) {
    filled.top_logprobs[i] = logprob(filled.top_logprobs[i]);
  }
  *result = filled;
  return KernelStatus::kOk;
}

}  // namespace longhaul::kernels
