#pragma once

#include <cstdint>
#include <string>

#include "common/config.h"

namespace longhaul::worker::rank {

// Settings of `longhaul-worker rank`.
struct RankConfig {
  std::string model;
  std::string control;
  int32_t rank = 0;
  int32_t tensor_parallel_size = 1;
  int32_t pipeline_parallel_size = 1;
  std::string layer_split;
  int32_t ranks_on_host = 1;
  std::string comm_host = "127.0.0.1";
  std::string comm_interface;
  std::string device = "cpu";
  std::string kv_cache_dtype = "auto";
  double kv_cache_gib = 0;
  double kv_offload_gib = 0;
  std::string kv_offload_dir;
  double kv_offload_disk_gib = 32;
  std::string attention_temperature = "position";
  std::string dual_chunk_attention = "on";
  int32_t threads = 0;
  std::string metrics_host = "127.0.0.1";
  int32_t metrics_port = 0;
};

template <typename V>
void VisitFields(V&& v, RankConfig& c) {
  v("model", c.model, "Directory of the model: config.json and safetensors files.");
  v("control", c.control, "The leader's control address, host:port or unix:/path.");
  v("rank", c.rank, Bounds{0, 255}, "This rank's number in its group, from 0.");
  v("tensor-parallel-size", c.tensor_parallel_size, Bounds{1, 256},
    "Ranks that share each layer; divides the model's KV heads.");
  v("pipeline-parallel-size", c.pipeline_parallel_size, Bounds{1, 256},
    "Stages that the layers are split into; the group has tensor-parallel-size ranks for each.");
  v("layer-split", c.layer_split,
    "Layers of each stage, separated by commas; empty = as even as whole layers allow.");
  v("ranks-on-host", c.ranks_on_host, Bounds{1, 4096},
    "Ranks of all groups that share this host's memory and cores.");
  v("comm-host", c.comm_host,
    "Name or address of this host that ranks exchange tensors on, unencrypted: of a network that "
    "only the group reaches.");
  v("comm-interface", c.comm_interface,
    "Network interface that ranks exchange tensors on; if set, comm-host is not used.");
  v("device", c.device, OneOf{{"cpu"}}, "What the rank computes on.");
  v("kv-cache-dtype", c.kv_cache_dtype, OneOf{{"auto", "fp32", "bf16"}},
    "Type of cached keys and values; auto = fp32 on the CPU.");
  v("kv-cache-gib", c.kv_cache_gib, Bounds{0, 65536},
    "Memory for the KV cache of a rank, GiB, touched as it is used; 0 = one prompt of the model's "
    "full length and some short ones, at most the rank's share of half of the memory that is "
    "free.");
  v("kv-offload-gib", c.kv_offload_gib, Bounds{0, 65536},
    "Host memory for KV blocks that leave the KV cache, GiB, touched as it is used; 0 = none.");
  v("kv-offload-dir", c.kv_offload_dir,
    "Folder of the file for KV blocks that leave the KV cache, of this rank's group alone; empty = "
    "none.");
  v("kv-offload-disk-gib", c.kv_offload_disk_gib, Bounds{0, 1 << 20},
    "Largest size of the file in kv-offload-dir, GiB; 0 = none.");
  v("attention-temperature", c.attention_temperature, OneOf{{"position", "request"}},
    "Which length the attention temperature follows: each query's own, or its whole prompt's.");
  v("dual-chunk-attention", c.dual_chunk_attention, OneOf{{"on", "off"}},
    "off = plain RoPE, whatever the model's configuration says.");
  v("threads", c.threads, Bounds{0, 1024},
    "Threads that compute; 0 = the rank's share of the cores.");
  v("metrics-host", c.metrics_host, "Address that /metrics is served on.");
  v("metrics-port", c.metrics_port, Bounds{-1, 65535},
    "Port that /metrics is served on; 0 = any free one, -1 = none.");
}

}  // namespace longhaul::worker::rank
