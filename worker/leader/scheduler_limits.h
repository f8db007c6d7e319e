#pragma once

#include <cstdint>
#include <limits>

namespace longhaul::worker::leader {

// What a group's leader may take in and plan. Value.
struct SchedulerLimits {
  int32_t max_model_len = 0;           // prompt and output tokens of one request
  int32_t max_num_batched_tokens = 0;  // tokens of one step; >= max_num_seqs + kKvBlockTokens
  int32_t max_num_seqs = 0;            // running at the same time
  int32_t max_waiting = 0;             // requests that may wait
  int32_t max_waiting_long = 1;        // of them, long jobs
  int32_t long_prompt_tokens = 0;      // a prompt from this length on is a long job
  int32_t num_layers = 0;
  int32_t num_stages = 1;           // pipeline stages
  int32_t max_plans_in_flight = 1;  // num_stages, or one more
  bool prefix_caching = true;
  // Predicted seconds of a step: while others wait for the ranks, and always.
  double step_target_seconds = std::numeric_limits<double>::infinity();
  double max_step_seconds = std::numeric_limits<double>::infinity();
};

}  // namespace longhaul::worker::leader
