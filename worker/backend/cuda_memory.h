#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/backend/device_buffer.h"

namespace longhaul::worker::backend {

// Zeroed, in the stream's order, memory of the current device. kResourceExhausted names the bytes
// and those that are free.
absl::StatusOr<DeviceBuffer> AllocateCuda(int64_t bytes, cudaStream_t stream);

// Device memory that is kept while it suffices: its address then stays.
class GrowingDeviceBuffer {
 public:
  // At least `bytes`, at least twice as many as before if that is more. What was in it is lost.
  absl::Status Reserve(int64_t bytes, cudaStream_t stream);
  uint8_t* data() const { return buffer_.data(); }
  uint64_t address() const { return reinterpret_cast<uintptr_t>(buffer_.data()); }

 private:
  DeviceBuffer buffer_;
};

// Page-locked host memory that is filled, then copied to the device by the stream alone.
//
// Owned by one thread. Reserve, fill, Send, and again: Reserve waits until the copy before is
// through, which it mostly is.
class UploadBuffer {
 public:
  UploadBuffer() = default;
  ~UploadBuffer();
  UploadBuffer(const UploadBuffer&) = delete;
  UploadBuffer& operator=(const UploadBuffer&) = delete;

  // Makes data() at least `bytes` long, and the caller's. kResourceExhausted, or what a copy met.
  absl::Status Reserve(int64_t bytes);
  uint8_t* data() const { return data_; }
  // Enqueues the copy of the first `bytes`.
  absl::Status Send(int64_t bytes, void* device, cudaStream_t stream);

 private:
  uint8_t* data_ = nullptr;
  int64_t bytes_ = 0;
  cudaEvent_t sent_ = nullptr;  // made with the first memory; recorded behind each copy
};

}  // namespace longhaul::worker::backend
