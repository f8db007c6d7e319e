#pragma once

#include <cstdint>
#include <string>

#include "common/config.h"

namespace longhaul::cli {

// The settings of `longhaul plan`. Flags carry vLLM's names where the thing is the same.
struct PlanConfig {
  std::string gpu = "h100-80g:1";
  int32_t tensor_parallel_size = 0;
  int32_t pipeline_parallel_size = 1;
  std::string layer_split;
  int64_t prompt_tokens = 0;
  std::string attention = "dense";
  int32_t max_model_len = 0;
  int32_t max_num_batched_tokens = 0;
  int32_t max_num_seqs = 64;
  double gpu_memory_utilization = 0.92;
  double max_step_ms = 500;
  int32_t plans_in_flight = 0;
  int32_t attention_range_keys = -1;
  double short_requests_per_second = 0;
  int32_t short_prompt_tokens = 64;
  int32_t short_output_tokens = 4;
  double step_target_ms = 200;
};

template <typename V>
void VisitFields(V&& v, PlanConfig& c) {
  v("gpu", c.gpu,
    "Cards of the group, NAME:COUNT: tensor-parallel-size for each pipeline stage; with --simulate "
    "one.");
  v("tensor-parallel-size", c.tensor_parallel_size, Bounds{0, 256},
    "Cards that share each layer; 0 = as many as there are for a stage.");
  v("pipeline-parallel-size", c.pipeline_parallel_size, Bounds{1, 1024},
    "Pipeline stages that the layers are split into.");
  v("layer-split", c.layer_split,
    "Layers of each stage, separated by commas; empty = as even as whole layers allow.");
  v("prompt-tokens", c.prompt_tokens, Bounds{0, 1 << 24},
    "Tokens of the prompt whose prefill is forecast; 0 = max-model-len.");
  v("attention", c.attention, OneOf{{"dense", "sparse"}},
    "Attention of the prefill; sparse takes the model's sparse_attention_config.json.");
  v("max-model-len", c.max_model_len, Bounds{0, 1 << 24},
    "Prompt and output tokens of the longest request, whose KV must fit; 0 = the model's longest.");
  v("max-num-batched-tokens", c.max_num_batched_tokens, Bounds{0, 1 << 20},
    "Tokens of one step, the largest prefill chunk: what activation memory holds. 0 = 2,048, as a "
    "leader has it; with --simulate 131,072.");
  v("max-num-seqs", c.max_num_seqs, Bounds{1, 4096}, "Requests that run at the same time.");
  v("gpu-memory-utilization", c.gpu_memory_utilization, Bounds{0.01, 1},
    "Part of a card's memory that may be used.");
  v("max-step-ms", c.max_step_ms, Bounds{0, 3.6e6},
    "Longest unit, milliseconds: longer chunks are cut between layers; 0 = any.");
  v("plans-in-flight", c.plans_in_flight, Bounds{0, 4096},
    "Chunks that may be on their way through the stages; 0 = one more than stages.");
  v("short-requests-per-second", c.short_requests_per_second, Bounds{0, 1000},
    "Short requests that come beside the prompt, at random times; one card only.");
  v("short-prompt-tokens", c.short_prompt_tokens, Bounds{1, 4096},
    "Tokens of the longest short request's prompt; the least is 1.");
  v("short-output-tokens", c.short_output_tokens, Bounds{1, 4096},
    "Tokens that each short request generates.");
  v("step-target-ms", c.step_target_ms, Bounds{1, 3.6e6},
    "Longest unit beside short requests, milliseconds.");
  v("attention-range-keys", c.attention_range_keys, Bounds{-1, 1 << 24},
    "Keys of one partial result of attention; 0 = no partial results, -1 = the card's table.");
}

// What one call is asked for.
struct PlanTask {
  bool simulate = false;
  bool json = false;
};

}  // namespace longhaul::cli
