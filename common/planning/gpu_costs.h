#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/planning/polyline.h"

namespace longhaul::planning {

// What the parts of a prefill cost on one kind of GPU: a table of gpus/, which says of each figure
// where it was measured or that it is assumed. Immutable value; knows no model.
struct GpuCosts {
  std::string name;
  std::string description;
  double step_overhead_seconds = 0;  // of a unit on a stage
  double link_bytes_per_second = 0;  // from a pipeline stage to the next
  double memory_bytes_per_second = 0;
  int64_t memory_bytes = 0;                // that a program sees
  double all_reduce_bytes_per_second = 0;  // of the bytes summed, between two cards
  double gemm_tflops = 0;                  // of products of many rows
  Polyline gemm_share_by_rows{{{0, 1}}};
  int64_t mlp_tile_rows = 0;                    // rows that the MLP takes at a time
  Polyline attention_tflops_by_keys{{{0, 1}}};  // linear in the logarithm of keys
  int64_t multiprocessors = 0;
  int64_t attention_tile_rows = 0;
  Polyline attention_share_by_wave_fill{{{0, 1}}};
  int64_t attention_range_keys = 0;  // keys of a partial result; 0 = the history is one range
  Polyline causal_tflops_by_rows{{{0, 1}}};
  double sparse_attention_tflops = 1;
  int64_t sparse_cluster_slashes = 1;  // neighbouring diagonals that are chosen together
  double sparse_estimation_tflops = 1;

  // kInvalidArgument names what is missing, unknown or out of range.
  static absl::StatusOr<GpuCosts> Parse(std::string_view yaml);
  // One of the tables that are compiled in. kNotFound lists the names that there are.
  static absl::StatusOr<GpuCosts> Find(std::string_view name);
};

// Cards of one kind, as typed: "h100-80g:4".
struct GpuSet {
  GpuCosts costs;
  int count = 0;

  // kInvalidArgument: not NAME:COUNT, or the count is not from 1 to 1024; kNotFound: the name.
  static absl::StatusOr<GpuSet> Parse(std::string_view text);
};

}  // namespace longhaul::planning
