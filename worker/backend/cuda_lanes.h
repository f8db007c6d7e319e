#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "worker/backend/backend.h"

namespace longhaul::worker::backend {

// The lanes of a device as its streams, and marks as events.
//
// Sums and transfers come first where both have work that waits for room on the device: others wait
// for what they carry. Owned by one thread, on which the device is current.
class CudaLanes {
 public:
  CudaLanes() = default;
  // Ends when ops are done; a transfer whose peer does not come must have been aborted before.
  ~CudaLanes();
  CudaLanes(const CudaLanes&) = delete;
  CudaLanes& operator=(const CudaLanes&) = delete;

  // Once, before all else.
  absl::Status Open();
  cudaStream_t StreamOf(Lane lane) const { return streams_[static_cast<size_t>(lane)]; }

  // As in Backend.
  std::unique_ptr<Mark> MakeMark() const;
  absl::Status Record(Lane lane, Mark& mark) const;
  absl::Status Await(const Mark& mark, Lane lane) const;
  absl::StatusOr<absl::Duration> Elapsed(const Mark& begin, const Mark& end) const;

 private:
  std::array<cudaStream_t, 3> streams_ = {};
};

}  // namespace longhaul::worker::backend
