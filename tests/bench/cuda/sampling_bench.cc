#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "kernels/logprobs/logprobs_cuda.h"
#include "kernels/sampling/sampling_cuda.h"
#include "tests/bench/cuda/device_bench.h"

namespace longhaul::bench {
namespace {

using kernels::DeviceStream;
using kernels::SamplingCudaRow;

// Logits as a model's: normal, of deviation 3.
std::vector<float> NormalLogits(int64_t size) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 3);
  std::vector<float> logits(size);
  for (float& logit : logits) logit = normal(random);
  return logits;
}

struct Wish {
  const char* name;
  SamplingCudaRow row;
  bool penalized = false;  // with `seen`, a hundredth of the vocabulary
};

void SamplingCase(DeviceBench& bench, const Wish& wish, int32_t num_rows) {
  const std::vector<float> logits = NormalLogits(int64_t{num_rows} * kVocab);
  const std::vector<uint64_t> seen((kVocab + 63) / 64, uint64_t{1} << 17);
  bench.Run({std::string("sampling ") + wish.name,
             "rows=" + std::to_string(num_rows) + " V=" + std::to_string(kVocab),
             int64_t{num_rows} * kVocab * 4},
            [&](int call) {
              const float* device_logits = bench.TakeWith(logits);
              std::vector<SamplingCudaRow> rows(num_rows, wish.row);
              for (int32_t i = 0; i < num_rows; ++i) {
                rows[i].logits = device_logits + int64_t{i} * kVocab;
                rows[i].uniform = kernels::SamplingUniform(static_cast<uint64_t>(call), i);
                if (wish.penalized) rows[i].seen = bench.TakeWith(seen);
              }
              const auto workspace_bytes =
                  static_cast<int64_t>(kernels::SamplingCudaWorkspaceBytes(kVocab, num_rows));
              const kernels::SamplingCudaParams p = {
                  .rows = bench.TakeWith(rows),
                  .num_rows = num_rows,
                  .vocab_size = kVocab,
                  .workspace = bench.Take<uint8_t>(workspace_bytes),
                  .results = bench.Take<kernels::SamplingCudaResult>(num_rows)};
              return [p](DeviceStream stream) { return SamplingCuda(p, stream); };
            });
}

void LogprobsCase(DeviceBench& bench, int32_t num_rows) {
  const std::vector<float> logits = NormalLogits(int64_t{num_rows} * kVocab);
  bench.Run({"logprobs top 20", "rows=" + std::to_string(num_rows) + " V=" + std::to_string(kVocab),
             int64_t{num_rows} * kVocab * 4},
            [&](int) {
              const float* device_logits = bench.TakeWith(logits);
              std::vector<kernels::LogprobsCudaRow> rows;
              for (int32_t i = 0; i < num_rows; ++i) {
                rows.push_back({device_logits + int64_t{i} * kVocab, i, kernels::kMaxTopLogprobs});
              }
              const auto workspace_bytes =
                  static_cast<int64_t>(kernels::LogprobsCudaWorkspaceBytes(kVocab, num_rows));
              const kernels::LogprobsCudaParams p = {
                  .rows = bench.TakeWith(rows),
                  .num_rows = num_rows,
                  .vocab_size = kVocab,
                  .workspace = bench.Take<uint8_t>(workspace_bytes),
                  .results = bench.Take<kernels::LogprobsCudaResult>(num_rows)};
              return [p](DeviceStream stream) { return LogprobsCuda(p, stream); };
            });
}

}  // namespace

void SamplingBench(DeviceBench& bench) {
  const Wish wishes[] = {
      {"greedy", {.temperature = 0}},
      {"temperature", {.temperature = 0.7f}},
      {"top_p", {.temperature = 0.7f, .top_p = 0.95f}},
      {"top_k top_p repetition",
       {.temperature = 0.7f, .top_k = 20, .top_p = 0.8f, .repetition_penalty = 1.05f},
       /*penalized=*/true},
      {"top_p logprobs", {.temperature = 1, .top_p = 0.95f, .num_top_logprobs = 20}},
  };
  for (const Wish& wish : wishes) {
    for (const int32_t rows : {1, 64}) SamplingCase(bench, wish, rows);
  }
  for (const int32_t rows : {1, 256}) LogprobsCase(bench, rows);
}

}  // namespace longhaul::bench
