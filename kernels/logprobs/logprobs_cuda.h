#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/device_stream.h"
#include "kernels/logprobs/logprobs.h"
#include "kernels/status.h"

namespace longhaul::kernels {

// Vocabularies that sampling and logprobs take on CUDA devices.
inline constexpr int32_t kMaxCudaVocab = 1 << 19;

// One row of logits and the token whose logprob is asked for.
struct LogprobsCudaRow {
  const float* logits = nullptr;  // [V], device memory, read only
  int32_t token = 0;              // in [0, V)
  int32_t num_top = 0;            // 0..kMaxTopLogprobs
};

struct LogprobsCudaResult {
  // kNotFinite, or kInvalidArgument for a row outside its contract; `logprobs` is then a default
  // one.
  KernelStatus status = KernelStatus::kOk;
  Logprobs logprobs;
};

// Log-softmax of rows of logits; device memory throughout, so that only results leave the device.
struct LogprobsCudaParams {
  const LogprobsCudaRow* rows = nullptr;  // [num_rows]
  int32_t num_rows = 0;                   // >= 0
  int32_t vocab_size = 0;                 // V, 1..kMaxCudaVocab
  // Scratch of LogprobsCudaWorkspaceBytes, 16-byte aligned; its content does not matter.
  void* workspace = nullptr;
  LogprobsCudaResult* results = nullptr;  // [num_rows]
};

// Does not grow with num_rows beyond a few dozen rows: larger batches are done in turns.
size_t LogprobsCudaWorkspaceBytes(int32_t vocab_size, int32_t num_rows);
// Each row as LogprobsCpu, within 1e-6 (top ids exactly); its bits depend on that row alone.
// kInvalidArgument for sizes or pointers outside the above.
KernelStatus LogprobsCuda(const LogprobsCudaParams& p, DeviceStream stream);

}  // namespace longhaul::kernels
