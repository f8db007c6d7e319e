#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "kernels/sampling/sampling.h"

namespace longhaul::kernels {
namespace {

using Candidate = std::pair<double, int32_t>;  // score, id

bool Before(const Candidate& a, const Candidate& b) {
  if (a.first > b.first) return true;
  if (a.first < b.first) return false;
  return a.second < b.second;
}

double Sum(const std::vector<Candidate>& candidates, double max, double temperature) {
  double sum = 0;
  for (const Candidate& c : candidates) sum += std::exp((c.first - max) / temperature);
  return sum;
}

// Drops what the warpers drop from a list sorted by Before; temperature > 0.
void Warp(const SamplingParams& p, std::vector<Candidate>& sorted) {
  if (p.top_k > 0 && sorted.size() > static_cast<size_t>(p.top_k)) sorted.resize(p.top_k);
  const double max = sorted.front().first;
  const double total = Sum(sorted, max, p.temperature);
  if (p.top_p < 1) {
    double before = 0;
    size_t keep = 0;
    while (keep < sorted.size() && (keep == 0 || before / total < p.top_p)) {
      before += std::exp((sorted[keep].first - max) / p.temperature);
      ++keep;
    }
    sorted.resize(keep);
  }
  const double log_min_p = p.min_p > 0 ? std::log(double{p.min_p}) : -HUGE_VAL;
  while ((sorted.back().first - max) / p.temperature < log_min_p) sorted.pop_back();
}

int32_t Draw(const SamplingParams& p, std::vector<Candidate> kept) {
  const double max = kept.front().first;
  std::sort(kept.begin(), kept.end(),
            [](const Candidate& a, const Candidate& b) { return a.second < b.second; });
  const double u = SamplingUniform(p.seed, p.token_index);
  const double total = Sum(kept, max, p.temperature);
  double cumulative = 0;
  for (const Candidate& c : kept) {
    cumulative += std::exp((c.first - max) / p.temperature) / total;
    if (cumulative > u) return c.second;
  }
  return kept.back().second;
}

}  // namespace

KernelStatus SamplingRef(const SamplingParams& p, SamplingResult* result) {
  if (p.vocab_size < 1) return KernelStatus::kInvalidArgument;
  std::vector<Candidate> raw;
  for (int32_t id = 0; id < p.vocab_size; ++id) {
    if (std::isnan(p.logits[id]) || p.logits[id] == HUGE_VALF) return KernelStatus::kNotFinite;
    raw.emplace_back(p.logits[id], id);
  }
  std::vector<Candidate> candidates;
  for (auto [score, id] : raw) {
    if (p.seen != nullptr && (p.seen[id / 64] & uint64_t{1} << id % 64) != 0) {
      score = score < 0 ? score * p.repetition_penalty : score / p.repetition_penalty;
    }
    const int32_t count = p.counts == nullptr ? 0 : p.counts[id];
    score -= (count > 0 ? double{p.presence_penalty} : 0) + double{p.frequency_penalty} * count;
    for (int32_t i = 0; i < p.num_bias; ++i) score += p.bias_ids[i] == id ? p.bias_values[i] : 0;
    const bool banned = std::count(p.banned_ids, p.banned_ids + p.num_banned, id) > 0;
    if (!banned && score > -HUGE_VAL) candidates.emplace_back(score, id);
  }
  std::sort(raw.begin(), raw.end(), Before);
  if (raw.front().first == -HUGE_VAL) return KernelStatus::kNotFinite;
  if (candidates.empty()) return KernelStatus::kNoCandidate;
  std::sort(candidates.begin(), candidates.end(), Before);

  *result = SamplingResult{};
  if (p.temperature == 0) {
    result->token = candidates.front().second;
  } else {
    Warp(p, candidates);
    result->token = Draw(p, candidates);
  }
  const double log_sum = raw.front().first + std::log(Sum(raw, raw.front().first, 1.0));
  result->logprob = static_cast<float>(p.logits[result->token] - log_sum);
  result->num_top = std::min(p.num_top_logprobs, p.vocab_size);
  for (int32_t i = 0; i < result->num_top; ++i) {
    result->top_ids[i] = raw[i].second;
    result->top_logprobs[i] = static_cast<float>(raw[i].first - log_sum);
  }
  return KernelStatus::kOk;
}

}  // namespace longhaul::kernels
