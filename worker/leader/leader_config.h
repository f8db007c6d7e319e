#pragma once

#include <cstdint>
#include <string>

#include "common/config.h"

namespace longhaul::worker::leader {

// Settings of `longhaul-worker leader`. All take effect at start only.
struct LeaderConfig {
  std::string model;
  std::string served_model_name;
  std::string listen = "127.0.0.1:0";
  std::string control_listen = "127.0.0.1:0";
  std::string rank_program;
  std::string device = "cpu";
  int32_t tensor_parallel_size = 1;
  int32_t pipeline_parallel_size = 1;
  std::string layer_split;
  int32_t ranks_on_host = 0;
  std::string comm_host = "127.0.0.1";
  std::string comm_interface;
  int32_t max_model_len = 0;
  int32_t max_num_batched_tokens = 2048;
  int32_t max_num_seqs = 64;
  double step_target_ms = 200;
  double max_step_ms = 500;
  bool enable_prefix_caching = true;
  int32_t max_waiting_requests = 256;
  int32_t long_prompt_tokens = 32'768;
  int32_t max_prompt_logprobs_tokens = 32'768;
  std::string kv_cache_dtype = "auto";
  double kv_cache_gib = 0;
  double kv_offload_gib = 0;
  std::string kv_offload_dir;
  double kv_offload_disk_gib = 32;
  std::string attention_temperature = "position";
  std::string dual_chunk_attention = "on";
  int32_t threads = 0;
  double warm_up_seconds = 2;
  std::string cost_model_dir;
  std::string metrics_host = "127.0.0.1";
  int32_t metrics_port = 0;
  int32_t rank_metrics_port = 0;
};

template <typename V>
void VisitFields(V&& v, LeaderConfig& c) {
  v("model", c.model, "Directory of the model: config.json and safetensors files.");
  v("served-model-name", c.served_model_name,
    "The model's name towards routers; empty = its directory's name.");
  v("listen", c.listen, "Where routers connect: host:port (port 0 = any free one) or unix:/path.");
  v("control-listen", c.control_listen, "Where ranks connect: host:port or unix:/path.");
  v("rank-program", c.rank_program, "The program that ranks run; empty = this one.");
  v("device", c.device, OneOf{{"cpu"}}, "What the ranks compute on.");
  v("tensor-parallel-size", c.tensor_parallel_size, Bounds{1, 256},
    "Ranks that share each layer; divides the model's KV heads.");
  v("pipeline-parallel-size", c.pipeline_parallel_size, Bounds{1, 256},
    "Stages that the layers are split into; the group has tensor-parallel-size ranks for each.");
  v("layer-split", c.layer_split,
    "Layers of each stage, separated by commas; empty = as even as whole layers allow.");
  v("ranks-on-host", c.ranks_on_host, Bounds{0, 4096},
    "Ranks of all groups that share this host's memory and cores; 0 = this group's.");
  v("comm-host", c.comm_host,
    "Name or address of this host that ranks exchange tensors on, unencrypted: of a network that "
    "only the group reaches.");
  v("comm-interface", c.comm_interface,
    "Network interface that ranks exchange tensors on; if set, comm-host is not used.");
  v("max-model-len", c.max_model_len, Bounds{0, 1 << 24},
    "Prompt and output tokens of one request; 0 = the smaller of the model's own limit and what "
    "the "
    "KV cache holds.");
  v("max-num-batched-tokens", c.max_num_batched_tokens, Bounds{257, 1 << 20},
    "Tokens of one step, decode and prefill; at least max-num-seqs + 256.");
  v("max-num-seqs", c.max_num_seqs, Bounds{1, 4096}, "Requests that run at the same time.");
  v("step-target-ms", c.step_target_ms, Bounds{1, 3.6e6},
    "Predicted time of a step while other requests wait for it, milliseconds: a long prompt's "
    "chunks "
    "shrink to it.");
  v("max-step-ms", c.max_step_ms, Bounds{1, 3.6e6},
    "Predicted time of any step, milliseconds; a block of one prompt runs whatever it takes.");
  v("enable-prefix-caching", c.enable_prefix_caching,
    "Requests that begin alike share the KV of what they have in common.");
  v("max-waiting-requests", c.max_waiting_requests, Bounds{0, 4096},
    "Requests that may wait; more are sent elsewhere.");
  v("long-prompt-tokens", c.long_prompt_tokens, Bounds{1, 1 << 24},
    "A prompt from this length on is a long job, of which one may wait; tokens.");
  v("max-prompt-logprobs-tokens", c.max_prompt_logprobs_tokens, Bounds{1, 1 << 20},
    "Longest prompt whose logprobs may be asked for, tokens.");
  v("kv-cache-dtype", c.kv_cache_dtype, OneOf{{"auto", "fp32", "bf16"}},
    "Type of cached keys and values; auto = fp32 on the CPU.");
  v("kv-cache-gib", c.kv_cache_gib, Bounds{0, 65'536},
    "Memory for the KV cache of a rank, GiB, touched as it is used; 0 = one prompt of the model's "
    "full length and some short ones, at most the rank's share of half of the memory that is "
    "free.");
  v("kv-offload-gib", c.kv_offload_gib, Bounds{0, 65'536},
    "Host memory of a rank for KV blocks that leave the KV cache, GiB, touched as it is used; 0 = "
    "none.");
  v("kv-offload-dir", c.kv_offload_dir,
    "Folder for KV blocks that leave the KV cache, on a disk of this host: each leader makes one "
    "of "
    "its own in it, and removes it at its end; empty = none.");
  v("kv-offload-disk-gib", c.kv_offload_disk_gib, Bounds{0, 1 << 20},
    "Largest size of a rank's file in kv-offload-dir, GiB; 0 = none.");
  v("attention-temperature", c.attention_temperature, OneOf{{"position", "request"}},
    "Which length the attention temperature follows: each query's own, or its whole prompt's.");
  v("dual-chunk-attention", c.dual_chunk_attention, OneOf{{"on", "off"}},
    "off = plain RoPE, whatever the model's configuration says.");
  v("threads", c.threads, Bounds{0, 1024},
    "Threads that a rank computes with; 0 = its share of the cores.");
  v("warm-up-seconds", c.warm_up_seconds, Bounds{0, 3600},
    "Work that the ranks do before they take requests, to measure what steps cost, seconds; 0 = "
    "none, costs are learnt from requests. None either on hardware with saved costs.");
  v("cost-model-dir", c.cost_model_dir,
    "Folder where costs of steps are saved, by hardware and model, for the next start; empty = not "
    "saved.");
  v("metrics-host", c.metrics_host, "Address that /metrics of leader and ranks is served on.");
  v("metrics-port", c.metrics_port, Bounds{-1, 65'535},
    "Port of the leader's /metrics; 0 = any free one, -1 = none.");
  v("rank-metrics-port", c.rank_metrics_port, Bounds{-1, 65'535},
    "Port of the first rank's /metrics, each further rank has the next; 0 = any free ones, -1 = "
    "none.");
}

}  // namespace longhaul::worker::leader
