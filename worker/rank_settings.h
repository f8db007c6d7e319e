#pragma once

#include <cstdint>
#include <string>

#include "common/config.h"

namespace longhaul::worker {

// What a leader hands on to each of its ranks as it is: the settings that both programs have.
struct RankSettings {
  std::string model;
  std::string load_format = "auto";
  std::string device = "cpu";
  int32_t tensor_parallel_size = 1;
  int32_t pipeline_parallel_size = 1;
  std::string layer_split;
  std::string comm_host = "127.0.0.1";
  std::string comm_interface;
  int32_t max_model_len = 0;
  int32_t max_num_batched_tokens = 2048;
  int32_t max_num_seqs = 64;
  std::string kv_cache_dtype = "auto";
  double kv_cache_gib = 0;
  bool enforce_eager = false;
  double gpu_memory_utilization = 0.92;
  double kv_offload_gib = 0;
  double kv_offload_disk_gib = 32;
  std::string attention_temperature = "position";
  std::string dual_chunk_attention = "on";
  int32_t threads = 0;
  std::string metrics_host = "127.0.0.1";
};

template <typename V>
void VisitFields(V&& v, RankSettings& c) {
  v("model", c.model, "Directory of the model: config.json and safetensors files.");
  v("load-format", c.load_format, OneOf{{"auto", "dummy"}},
    "Where weights come from; auto = the model's safetensors files, dummy = random numbers, for "
    "measurements without any.");
  v("device", c.device, OneOf{{"cpu", "cuda"}}, "What a rank computes on.");
  v("tensor-parallel-size", c.tensor_parallel_size, Bounds{1, 256},
    "Ranks that share each layer; divides the model's KV heads.");
  v("pipeline-parallel-size", c.pipeline_parallel_size, Bounds{1, 256},
    "Stages that the layers are split into; the group has tensor-parallel-size ranks for each.");
  v("layer-split", c.layer_split,
    "Layers of each stage, separated by commas; empty = as even as whole layers allow.");
  v("comm-host", c.comm_host,
    "Name or address of this host that ranks exchange tensors on, unencrypted: of a network that "
    "only the group reaches.");
  v("comm-interface", c.comm_interface,
    "Network interface that ranks exchange tensors on; if set, comm-host is not used.");
  v("max-model-len", c.max_model_len, Bounds{0, 1 << 24},
    "Prompt and output tokens of one request; 0 = the smaller of the model's own limit and what "
    "the KV cache holds.");
  v("max-num-batched-tokens", c.max_num_batched_tokens, Bounds{257, 1 << 20},
    "Tokens of one step, decode and prefill; at least max-num-seqs + 256.");
  v("max-num-seqs", c.max_num_seqs, Bounds{1, 4096}, "Requests that run at the same time.");
  v("kv-cache-dtype", c.kv_cache_dtype, OneOf{{"auto", "fp32", "bf16"}},
    "Type of cached keys and values; auto = fp32 on the CPU, bf16 on CUDA devices, which have no "
    "other.");
  v("kv-cache-gib", c.kv_cache_gib, Bounds{0, 65'536},
    "Memory for the KV cache of a rank, GiB; 0 = on the CPU one prompt of the model's full length "
    "and some short ones, at most the rank's share of half of the memory that is free; on a CUDA "
    "device what gpu-memory-utilization leaves beside weights and activations.");
  v("enforce-eager", c.enforce_eager,
    "Decode steps on a CUDA device launch their kernels one by one, without CUDA graphs.");
  v("gpu-memory-utilization", c.gpu_memory_utilization, Bounds{0.01, 1},
    "Part of a CUDA device's free memory that its rank takes for weights, activations and KV "
    "cache.");
  v("kv-offload-gib", c.kv_offload_gib, Bounds{0, 65'536},
    "Host memory of a rank for KV blocks that leave the KV cache, GiB, touched as it is used; 0 = "
    "none.");
  v("kv-offload-disk-gib", c.kv_offload_disk_gib, Bounds{0, 1 << 20},
    "Largest size of a rank's file in kv-offload-dir, GiB; 0 = none.");
  v("attention-temperature", c.attention_temperature, OneOf{{"position", "request"}},
    "Which length the attention temperature follows: each query's own, or its whole prompt's.");
  v("dual-chunk-attention", c.dual_chunk_attention, OneOf{{"on", "off"}},
    "off = plain RoPE, whatever the model's configuration says.");
  v("threads", c.threads, Bounds{0, 1024},
    "Threads that a rank computes with; 0 = its share of the cores.");
  v("metrics-host", c.metrics_host, "Address that /metrics is served on.");
}

}  // namespace longhaul::worker
