#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "common/config.h"

namespace longhaul::router {

// Settings of longhaul-router. All take effect at start only.
struct RouterConfig {
  std::string model;              // directory
  std::string served_model_name;  // empty = the directory's name
  int32_t max_model_len = 0;
  std::string host = "127.0.0.1";
  int32_t port = 8000;
  int32_t grpc_port = 9000;
  std::vector<std::string> worker;
  std::vector<std::string> allowed_origins;

  int32_t max_requests = 1024;
  int32_t max_queued = 1024;
  int32_t max_prompt_mib = 2048;
  int32_t max_request_mib = 64;
  int32_t max_prompt_logprobs_tokens = 32768;
  double default_timeout_seconds = 3600;
  double max_timeout_seconds = 86400;
  double worker_wait_seconds = 60;
  double worker_silence_seconds = 4.5;
  double slow_reader_seconds = 30;
  double shutdown_seconds = 3;
  int32_t grpc_memory_mib = 1024;
  int32_t grpc_max_streams = 1024;
  double grpc_connection_age_seconds = 3600;
  bool grpc_reflection = true;
};

template <typename V>
void VisitFields(V&& v, RouterConfig& c) {
  v("model", c.model, "Directory of the model: its tokenizer, chat template and configuration.");
  v("served-model-name", c.served_model_name,
    "The model's name in the APIs and at the workers; empty = the directory's name.");
  v("max-model-len", c.max_model_len, Bounds{0, 16 << 20},
    "Longest prompt and output together, tokens; 0 = the model's. Workers may allow less.");
  v("host", c.host, "Address that REST and gRPC listen on.");
  v("port", c.port, Bounds{0, 65535}, "Port of REST; 0 = any free one.");
  v("grpc-port", c.grpc_port, Bounds{0, 65535}, "Port of gRPC; 0 = any free one.");
  v("worker", c.worker, "Address of a leader, host:port or unix:/path; one or more.");
  v("allowed-origins", c.allowed_origins,
    "Origin of web pages that may use REST from a browser (CORS), https://host[:port] or * for "
    "any; one or more, none = off.");
  v("max-requests", c.max_requests, Bounds{1, 65536},
    "Live requests (tokenizing, queued, running); more are refused.");
  v("max-queued", c.max_queued, Bounds{1, 1 << 20},
    "Executions (choices of requests) that wait for a worker; more are refused.");
  v("max-prompt-mib", c.max_prompt_mib, Bounds{64, 1 << 20},
    "MiB of prompts of live requests; more are refused.");
  v("max-request-mib", c.max_request_mib, Bounds{1, 1024}, "MiB of one request, gRPC or REST.");
  v("max-prompt-logprobs-tokens", c.max_prompt_logprobs_tokens, Bounds{1, 1 << 20},
    "Longest prompt whose logprobs may be asked for, tokens.");
  v("default-timeout-seconds", c.default_timeout_seconds, Bounds{1, 30 * 86400.0},
    "Time a request may take if it names none, seconds.");
  v("max-timeout-seconds", c.max_timeout_seconds, Bounds{1, 30 * 86400.0},
    "Longest time a request may ask for, seconds.");
  v("worker-wait-seconds", c.worker_wait_seconds, Bounds{0, 86400},
    "How long a request waits while no worker is ready, seconds.");
  v("worker-silence-seconds", c.worker_silence_seconds, Bounds{1.5, 3600},
    "A worker that reports nothing for so long is taken for lost with what runs there, seconds.");
  v("slow-reader-seconds", c.slow_reader_seconds, Bounds{0.1, 3600},
    "A client that accepts nothing for so long is cancelled, seconds.");
  v("shutdown-seconds", c.shutdown_seconds, Bounds{0, 86400},
    "How long running requests may go on after SIGTERM, seconds.");
  v("grpc-memory-mib", c.grpc_memory_mib, Bounds{128, 1 << 20},
    "MiB that gRPC may buffer for all connections together.");
  v("grpc-max-streams", c.grpc_max_streams, Bounds{1, 1 << 20}, "Calls on one gRPC connection.");
  v("grpc-connection-age-seconds", c.grpc_connection_age_seconds, Bounds{10, 1e6},
    "Age at which clients are told to dial anew, seconds; running calls go on.");
  v("grpc-reflection", c.grpc_reflection, "Serve gRPC reflection.");
}

}  // namespace longhaul::router
