#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/device_stream.h"
#include "kernels/logprobs/logprobs_cuda.h"
#include "kernels/sampling/sampling.h"
#include "kernels/status.h"

namespace longhaul::kernels {

// One row of logits and how its token is chosen: the fields of SamplingParams, whose steps, ranges
// and ties these are. All pointers are to device memory.
struct SamplingCudaRow {
  const float* logits = nullptr;  // [V], read only; null = no row, kInvalidArgument
  float temperature = 1;
  int32_t top_k = 0;
  float top_p = 1;
  float min_p = 0;
  float repetition_penalty = 1;
  float presence_penalty = 0;
  float frequency_penalty = 0;
  int32_t num_top_logprobs = 0;
  // The draw: SamplingUniform(seed, token_index), in [0, 1).
  double uniform = 0;
  // Not null: read by the penalties, and the chosen token is added to them. Rows of one call share
  // neither.
  uint64_t* seen = nullptr;   // [ceil(V/64)]
  int32_t* counts = nullptr;  // [V]
  const int32_t* bias_ids = nullptr;
  const float* bias_values = nullptr;
  const int32_t* banned_ids = nullptr;
  int32_t num_bias = 0;
  int32_t num_banned = 0;
};

struct SamplingCudaResult {
  // As SamplingCpu returns it, kInvalidArgument included; not kOk: `result` is a default one, and
  // nothing is marked.
  KernelStatus status = KernelStatus::kOk;
  SamplingResult result;
};

// Samples rows of logits; device memory throughout, so that only results leave the device.
struct SamplingCudaParams {
  const SamplingCudaRow* rows = nullptr;  // [num_rows]
  int32_t num_rows = 0;                   // >= 0
  int32_t vocab_size = 0;                 // V, 1..kMaxCudaVocab
  // Scratch of SamplingCudaWorkspaceBytes, 16-byte aligned; its content does not matter.
  void* workspace = nullptr;
  SamplingCudaResult* results = nullptr;  // [num_rows]
};

// At most about 45 MB (64 rows of a vocabulary of 152,064): larger batches are done in turns.
size_t SamplingCudaWorkspaceBytes(int32_t vocab_size, int32_t num_rows);
// Chooses as SamplingCpu does: the same scores bit for bit, and probabilities in fixed point, 44
// bits behind the point beside the most probable token's 1. A draw or a cut-off can differ only
// where it lies within 1e-8 of a border (in probability). Sums are of integers: a row's result
// depends on that row alone. What runs does not depend on the rows' parameters, so that a CUDA
// graph may hold it. kInvalidArgument for sizes or pointers outside the above.
KernelStatus SamplingCuda(const SamplingCudaParams& p, DeviceStream stream);

// Tokens of a sequence that were not sampled by SamplingCuda. Device memory.
struct SamplingSeenCudaParams {
  const int32_t* ids = nullptr;  // [num_ids]; what is outside [0, V) marks nothing
  int64_t num_ids = 0;           // >= 0
  int32_t vocab_size = 0;        // V, 1..kMaxCudaVocab
  uint64_t* seen = nullptr;      // [ceil(V/64)], its bits are set; or null
  int32_t* counts = nullptr;     // [V], 1 is added for each; or null
};
KernelStatus SamplingSeenCuda(const SamplingSeenCudaParams& p, DeviceStream stream);

}  // namespace longhaul::kernels
