#pragma once

#include <cstdint>
#include <string>

#include "common/config.h"
#include "worker/rank_settings.h"

namespace longhaul::worker::leader {

// Settings of `longhaul-worker leader`. All take effect at start only.
struct LeaderConfig : RankSettings {
  std::string served_model_name;
  std::string listen = "127.0.0.1:0";
  std::string control_listen = "127.0.0.1:0";
  std::string rank_program;
  int32_t ranks_on_host = 0;
  int32_t first_cuda_device = 0;
  double step_target_ms = 200;
  double max_step_ms = 500;
  bool enable_prefix_caching = true;
  int32_t max_waiting_requests = 256;
  int32_t long_prompt_tokens = 32'768;
  int32_t max_prompt_logprobs_tokens = 32'768;
  std::string kv_offload_dir;
  double warm_up_seconds = 2;
  std::string cost_model_dir;
  int32_t metrics_port = 0;
  int32_t rank_metrics_port = 0;
};

template <typename V>
void VisitFields(V&& v, LeaderConfig& c) {
  VisitFields(v, static_cast<RankSettings&>(c));
  v("served-model-name", c.served_model_name,
    "The model's name towards routers; empty = its directory's name.");
  v("listen", c.listen, "Where routers connect: host:port (port 0 = any free one) or unix:/path.");
  v("control-listen", c.control_listen, "Where ranks connect: host:port or unix:/path.");
  v("rank-program", c.rank_program, "The program that ranks run; empty = this one.");
  v("ranks-on-host", c.ranks_on_host, Bounds{0, 4096},
    "Ranks of all groups that share this host's memory and cores; 0 = this group's.");
  v("first-cuda-device", c.first_cuda_device, Bounds{0, 255},
    "CUDA device of this group's first rank; each further rank has the next one.");
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
  v("kv-offload-dir", c.kv_offload_dir,
    "Folder for KV blocks that leave the KV cache, on a disk of this host: each leader makes one "
    "of "
    "its own in it, and removes it at its end; empty = none.");
  v("warm-up-seconds", c.warm_up_seconds, Bounds{0, 3600},
    "Work that the ranks do before they take requests, to measure what steps cost, seconds; 0 = "
    "none, costs are learnt from requests. None either on hardware with saved costs.");
  v("cost-model-dir", c.cost_model_dir,
    "Folder where costs of steps are saved, by hardware and model, for the next start; empty = not "
    "saved.");
  v("metrics-port", c.metrics_port, Bounds{-1, 65'535},
    "Port of the leader's /metrics; 0 = any free one, -1 = none.");
  v("rank-metrics-port", c.rank_metrics_port, Bounds{-1, 65'535},
    "Port of the first rank's /metrics, each further rank has the next; 0 = any free ones, -1 = "
    "none.");
}

}  // namespace longhaul::worker::leader
