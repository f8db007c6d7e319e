#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/sampling/sampling.h"

namespace longhaul::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int32_t kFirstSortedPrefix = 256;

bool IdsInRange(const int32_t* ids, int32_t num_ids, int32_t vocab_size) {
  return num_ids == 0 || (num_ids > 0 && ids != nullptr &&
                          std::all_of(ids, ids + num_ids, [vocab_size](int32_t id) {
                            return id >= 0 && id < vocab_size;
                          }));
}

bool Valid(const SamplingParams& p) {
  if (p.logits == nullptr || p.workspace == nullptr || p.vocab_size < 1) return false;
  if (!(p.temperature >= 0) || p.temperature == kInfinity || p.top_k < 0) return false;
  if (!(p.top_p > 0 && p.top_p <= 1) || !(p.min_p >= 0 && p.min_p <= 1)) return false;
  if (!(p.repetition_penalty > 0) || p.repetition_penalty == kInfinity) return false;
  if (!std::isfinite(p.presence_penalty) || !std::isfinite(p.frequency_penalty)) return false;
  if (p.num_top_logprobs < 0 || p.num_top_logprobs > kMaxTopLogprobs) return false;
  return IdsInRange(p.bias_ids, p.num_bias, p.vocab_size) &&
         IdsInRange(p.banned_ids, p.num_banned, p.vocab_size) &&
         std::all_of(p.bias_values, p.bias_values + p.num_bias,
                     [](float bias) { return std::isfinite(bias); });
}

// The caller's scratch, cut in three; what each holds changes from step to step.
struct Workspace {
  Workspace(void* memory, int32_t vocab_size)
      : weights(static_cast<double*>(memory)),
        scores(reinterpret_cast<float*>(weights + vocab_size)),
        ids(reinterpret_cast<int32_t*>(scores + vocab_size)) {}
  double* weights;  // [V] by token id
  float* scores;    // [V] by token id
  int32_t* ids;     // [V] a list of candidates
};

// Orders ids by value, largest first, then by id: total, so that results are unique.
struct ByValue {
  const float* values;
  bool operator()(int32_t a, int32_t b) const {
    return values[a] != values[b] ? values[a] > values[b] : a < b;
  }
};

// Steps 1 to 4 of the header.
void ApplyPenalties(const SamplingParams& p, float* scores) {
  std::copy_n(p.logits, p.vocab_size, scores);
  if (p.seen != nullptr && p.repetition_penalty != 1.0f) {
    for (int32_t id = 0; id < p.vocab_size; ++id) {
      if ((p.seen[id / 64] >> (id % 64) & 1) == 0) continue;
      scores[id] =
          scores[id] < 0 ? scores[id] * p.repetition_penalty : scores[id] / p.repetition_penalty;
    }
  }
  if (p.counts != nullptr && (p.presence_penalty != 0 || p.frequency_penalty != 0)) {
    for (int32_t id = 0; id < p.vocab_size; ++id) {
      if (p.counts[id] <= 0) continue;
      scores[id] -= p.presence_penalty + p.frequency_penalty * static_cast<float>(p.counts[id]);
    }
  }
  for (int32_t i = 0; i < p.num_bias; ++i) scores[p.bias_ids[i]] += p.bias_values[i];
  for (int32_t i = 0; i < p.num_banned; ++i) scores[p.banned_ids[i]] = -kInfinity;
}

// Sorts a prefix of ids [0, size) that holds at least `mass` of the total weight, and returns how
// many of them that takes. Sorting all of a 150K vocabulary would cost more than the rest together.
int32_t SortedMassPrefix(const ByValue& order, const double* weights, int32_t* ids, int32_t size,
                         double mass) {
  int32_t sorted = 0;
  double sum = 0;
  while (sorted < size) {
    const int32_t next = static_cast<int32_t>(
        std::min<int64_t>(size, std::max<int64_t>(kFirstSortedPrefix, int64_t{sorted} * 8)));
    std::partial_sort(ids + sorted, ids + next, ids + size, order);
    for (; sorted < next; ++sorted) {
      if (sum >= mass) return std::max(sorted, 1);
      sum += weights[ids[sorted]];
    }
  }
  return size;
}

// Steps 6 to 9 of the header. `max` is the largest score.
int32_t Draw(const SamplingParams& p, const Workspace& work, float max) {
  int32_t size = 0;
  for (int32_t id = 0; id < p.vocab_size; ++id) {
    if (work.scores[id] > -kInfinity) work.ids[size++] = id;
  }
  const ByValue order{work.scores};
  if (p.top_k > 0 && p.top_k < size) {
    std::nth_element(work.ids, work.ids + p.top_k - 1, work.ids + size, order);
    size = p.top_k;
  }
  // Weights by (score - max) / temperature, which no temperature can overflow. In ascending order
  // of ids, so that sums do not depend on how nth_element left them.
  std::sort(work.ids, work.ids + size);
  double total = 0;
  for (int32_t i = 0; i < size; ++i) {
    const int32_t id = work.ids[i];
    work.weights[id] = std::exp((double{work.scores[id]} - max) / p.temperature);
    total += work.weights[id];
  }
  if (p.top_p < 1) {
    size = SortedMassPrefix(order, work.weights, work.ids, size, double{p.top_p} * total);
  }
  if (p.min_p > 0) {  // The most probable token weighs 1.
    size = static_cast<int32_t>(
        std::remove_if(work.ids, work.ids + size,
                       [&](int32_t id) { return work.weights[id] < double{p.min_p}; }) -
        work.ids);
  }
  std::sort(work.ids, work.ids + size);
  total = 0;
  for (int32_t i = 0; i < size; ++i) total += work.weights[work.ids[i]];
  const double target = SamplingUniform(p.seed, p.token_index) * total;
  double sum = 0;
  int32_t chosen = work.ids[0];
  for (int32_t i = 0; i < size; ++i) {
    if (work.weights[work.ids[i]] == 0) continue;
    chosen = work.ids[i];
    sum += work.weights[chosen];
    if (sum > target) break;
  }
  return chosen;
}

}  // namespace

size_t SamplingWorkspaceBytes(int32_t vocab_size) {
  return static_cast<size_t>(vocab_size) * (sizeof(double) + sizeof(float) + sizeof(int32_t));
}

KernelStatus SamplingCpu(const SamplingParams& p, SamplingResult* result) {
  if (!Valid(p)) return KernelStatus::kInvalidArgument;
  bool any = false;
  for (int32_t id = 0; id < p.vocab_size; ++id) {
    if (!(p.logits[id] < kInfinity)) return KernelStatus::kNotFinite;  // NaN compares false
    any = any || p.logits[id] > -kInfinity;
  }
  if (!any) return KernelStatus::kNotFinite;

  const Workspace work(p.workspace, p.vocab_size);
  ApplyPenalties(p, work.scores);
  const float* best = work.scores;  // the first of the largest
  for (int32_t id = 0; id < p.vocab_size; ++id) {
    if (!(work.scores[id] < kInfinity)) return KernelStatus::kNotFinite;
    if (work.scores[id] > *best) best = work.scores + id;
  }
  if (*best == -kInfinity) return KernelStatus::kNoCandidate;

  SamplingResult filled;
  filled.token =
      p.temperature == 0 ? static_cast<int32_t>(best - work.scores) : Draw(p, work, *best);
  const LogprobsParams logprobs = {.logits = p.logits,
                                   .vocab_size = p.vocab_size,
                                   .token = filled.token,
                                   .num_top = p.num_top_logprobs};
  const KernelStatus status = LogprobsCpu(logprobs, &filled);
  if (status != KernelStatus::kOk) return status;
  *result = filled;
  return KernelStatus::kOk;
}

}  // namespace longhaul::kernels
