#pragma once

#include <cstdint>
#include <string>

#include "common/config.h"
#include "worker/rank_settings.h"

namespace longhaul::worker::rank {

// Settings of `longhaul-worker rank`.
struct RankConfig : RankSettings {
  std::string control;
  int32_t rank = 0;
  int32_t ranks_on_host = 1;
  int32_t cuda_device = 0;
  std::string kv_offload_dir;
  int32_t metrics_port = 0;
};

template <typename V>
void VisitFields(V&& v, RankConfig& c) {
  VisitFields(v, static_cast<RankSettings&>(c));
  v("control", c.control, "The leader's control address, host:port or unix:/path.");
  v("rank", c.rank, Bounds{0, 255}, "This rank's number in its group, from 0.");
  v("ranks-on-host", c.ranks_on_host, Bounds{1, 4096},
    "Ranks of all groups that share this host's memory and cores.");
  v("cuda-device", c.cuda_device, Bounds{0, 511},
    "CUDA device of this rank, by its number among those that the process sees.");
  v("kv-offload-dir", c.kv_offload_dir,
    "Folder of the file for KV blocks that leave the KV cache, of this rank's group alone; empty = "
    "none.");
  v("metrics-port", c.metrics_port, Bounds{-1, 65535},
    "Port that /metrics is served on; 0 = any free one, -1 = none.");
}

}  // namespace longhaul::worker::rank
