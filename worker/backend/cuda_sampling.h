#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/backend/backend.h"
#include "worker/backend/cuda_memory.h"

namespace longhaul::worker::backend {

// Backend::Sample and Backend::Logprobs on the current CUDA device: what rows are sampled with goes
// there in one copy, results come back in one. Waits for the stream.
//
// Owned by one thread. An error of the device, or rows of different vocabularies, is every row's.
class CudaSampling {
 public:
  using Tokens = std::vector<absl::StatusOr<GeneratedToken>>;

  Tokens Sample(std::span<const SampleRow> rows, cudaStream_t stream);
  Tokens Logprobs(std::span<const LogprobsRow> rows, cudaStream_t stream);

 private:
  // Fills inputs_ and enqueues the kernel and the copy of its results to results_, of
  // `result_bytes` in all.
  absl::Status RunSampling(std::span<const SampleRow> rows, cudaStream_t stream);
  absl::Status RunLogprobs(std::span<const LogprobsRow> rows, cudaStream_t stream);
  // Copies device results behind the work before, and waits for them.
  absl::Status Download(size_t bytes, cudaStream_t stream);

  UploadBuffer upload_;
  GrowingDeviceBuffer inputs_;
  GrowingDeviceBuffer workspace_;
  GrowingDeviceBuffer device_results_;
  std::vector<uint64_t> results_;  // on the host
};

}  // namespace longhaul::worker::backend
