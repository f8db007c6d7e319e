#pragma once

#include <cstdint>
#include <string>

#include "cli/engine_config.h"
#include "cli/prompt_codec.h"
#include "common/config.h"

namespace longhaul::cli {

// The settings of `longhaul generate` that may stand in a file.
struct GenerateConfig {
  int32_t concurrency = 8;
  double request_timeout_seconds = 86400;
  EngineConfig engine;
};

template <typename V>
void VisitFields(V&& v, GenerateConfig& c) {
  v("concurrency", c.concurrency, Bounds{1, 1024}, "Requests of an input file that run at once.");
  v("request-timeout-seconds", c.request_timeout_seconds, Bounds{1, 2592000},
    "Longest time for one answer, seconds.");
  VisitFields(v, c.engine);
}

// What one call is about: a prompt, or a file of requests.
struct GenerateTask {
  std::string prompt_file;  // "-" = standard input
  PromptOptions prompt;
  std::string input_file;
  std::string output_file;
};

}  // namespace longhaul::cli
