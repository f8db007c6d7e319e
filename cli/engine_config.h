#pragma once

#include <cstdint>
#include <string>

#include "common/config.h"

namespace longhaul::cli {

// A model and the groups that run it, as far as the commands that start one let it be chosen. Flags
// carry vLLM's names where the thing is the same.
struct EngineConfig {
  std::string served_model_name;
  std::string load_format = "auto";
  int32_t groups = 1;
  int32_t tensor_parallel_size = 1;
  int32_t pipeline_parallel_size = 1;
  std::string layer_split;
  std::string device = "cpu";
  int32_t max_model_len = 0;
  int32_t max_num_batched_tokens = 0;
  int32_t max_num_seqs = 0;
  double step_target_ms = 0;
  double max_step_ms = 0;
  bool enable_prefix_caching = true;
  int32_t max_prompt_logprobs_tokens = 0;
  std::string kv_cache_dtype = "auto";
  double kv_cache_gib = 0;
  bool enforce_eager = false;
  double gpu_memory_utilization = 0.92;
  double kv_offload_gib = 0;
  std::string kv_offload_dir;
  double kv_offload_disk_gib = 32;
  std::string attention_temperature = "position";
  std::string dual_chunk_attention = "on";
  int32_t threads = 0;
  double warm_up_seconds = 2;
  std::string cost_model_dir = "cache";
  double start_timeout_seconds = 1800;
};

template <typename V>
void VisitFields(V&& v, EngineConfig& c) {
  v("served-model-name", c.served_model_name,
    "The model's name in the APIs; empty = its directory's name.");
  v("load-format", c.load_format, OneOf{{"auto", "dummy"}},
    "Where weights come from; auto = the model's safetensors files, dummy = random numbers, for "
    "measurements without any.");
  v("groups", c.groups, Bounds{1, 64}, "Groups, each with a copy of the model.");
  v("tensor-parallel-size", c.tensor_parallel_size, Bounds{1, 256},
    "Ranks of a group that share each layer; divides the model's KV heads.");
  v("pipeline-parallel-size", c.pipeline_parallel_size, Bounds{1, 256},
    "Stages that a group's layers are split into, with tensor-parallel-size ranks each.");
  v("layer-split", c.layer_split,
    "Layers of each stage, separated by commas; empty = as even as whole layers allow.");
  v("device", c.device, OneOf{{"cpu", "cuda"}},
    "What the ranks compute on; cuda = a device each, from the first one on.");
  v("max-model-len", c.max_model_len, Bounds{0, 1 << 24},
    "Prompt and output tokens together; 0 = the model's own limit.");
  v("max-num-batched-tokens", c.max_num_batched_tokens, Bounds{0, 1 << 20},
    "Tokens of one step, the largest prefill chunk; 0 = the leader's default.");
  v("max-num-seqs", c.max_num_seqs, Bounds{0, 4096},
    "Sequences that run together; 0 = the leader's default.");
  v("step-target-ms", c.step_target_ms, Bounds{0, 3.6e6},
    "Predicted time of a step while other requests wait for it, milliseconds; 0 = the leader's "
    "default.");
  v("max-step-ms", c.max_step_ms, Bounds{0, 3.6e6},
    "Predicted time of any step, milliseconds; 0 = the leader's default.");
  v("enable-prefix-caching", c.enable_prefix_caching,
    "Requests that begin alike share the KV of what they have in common.");
  v("max-prompt-logprobs-tokens", c.max_prompt_logprobs_tokens, Bounds{0, 1 << 20},
    "Longest prompt whose logprobs may be asked for, tokens; 0 = the programs' default.");
  v("kv-cache-dtype", c.kv_cache_dtype, OneOf{{"auto", "fp32", "bf16"}},
    "Type of cached keys and values; auto = fp32 on the CPU, bf16 on CUDA devices, which have no "
    "other.");
  v("kv-cache-gib", c.kv_cache_gib, Bounds{0, 65536},
    "Memory for the KV cache of a rank, GiB; 0 = on the CPU one prompt of the model's full length "
    "and some short ones, at most the rank's share of half of the memory that is free; on a CUDA "
    "device what gpu-memory-utilization leaves beside weights and activations.");
  v("enforce-eager", c.enforce_eager,
    "Decode steps on a CUDA device launch their kernels one by one, without CUDA graphs.");
  v("gpu-memory-utilization", c.gpu_memory_utilization, Bounds{0.01, 1},
    "Part of a CUDA device's free memory that its rank takes for weights, activations and KV "
    "cache.");
  v("kv-offload-gib", c.kv_offload_gib, Bounds{0, 65536},
    "Host memory of a rank for KV blocks that leave the KV cache, GiB, touched as it is used; 0 = "
    "none.");
  v("kv-offload-dir", c.kv_offload_dir,
    "Folder for KV blocks that leave the KV cache, on a disk of this host; empty = none.");
  v("kv-offload-disk-gib", c.kv_offload_disk_gib, Bounds{0, 1 << 20},
    "Largest size of a rank's file in kv-offload-dir, GiB; 0 = none.");
  v("attention-temperature", c.attention_temperature, OneOf{{"position", "request"}},
    "Length that the attention temperature follows: a query's position or the request's length.");
  v("dual-chunk-attention", c.dual_chunk_attention, OneOf{{"on", "off"}},
    "Dual Chunk Attention, where the model has it; off = plain RoPE.");
  v("threads", c.threads, Bounds{0, 1024}, "Threads of a rank; 0 = its share of the cores.");
  v("warm-up-seconds", c.warm_up_seconds, Bounds{0, 3600},
    "Work that the ranks do before they take requests, to measure what steps cost, seconds; 0 = "
    "none, costs are learnt from requests. None either on hardware with saved costs.");
  v("cost-model-dir", c.cost_model_dir,
    "Folder where costs of steps are saved, by hardware and model, for the next start; cache = "
    "longhaul/costs in the user's cache folder (XDG_CACHE_HOME, else ~/.cache), empty = not "
    "saved.");
  v("start-timeout-seconds", c.start_timeout_seconds, Bounds{1, 86400},
    "Longest time until the group is ready, loading included, seconds.");
}

}  // namespace longhaul::cli
