#include "worker/backend/cuda_memory.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "worker/backend/cuda_status.h"

namespace longhaul::worker::backend {

absl::StatusOr<DeviceBuffer> AllocateCuda(int64_t bytes, cudaStream_t stream) {
  if (bytes <= 0) return absl::InternalError(absl::StrCat("allocation of ", bytes, " bytes"));
  void* data = nullptr;
  const cudaError_t error = cudaMalloc(&data, static_cast<size_t>(bytes));
  if (error != cudaSuccess) {
    cudaGetLastError();
    size_t free = 0;
    size_t total = 0;
    std::string left;
    if (cudaMemGetInfo(&free, &total) == cudaSuccess) {
      left = absl::StrCat(", of which ", free, " of ", total, " are free");
    }
    return CudaStatus(error,
                      absl::StrCat("allocation of ", bytes, " bytes of device memory", left));
  }
  // An error of cudaFree is one of work before it, which whoever waits for that work reports.
  DeviceBuffer buffer(data, bytes, [](void* p) { cudaFree(p); });
  RETURN_IF_ERROR(CudaStatus(cudaMemsetAsync(data, 0, static_cast<size_t>(bytes), stream),
                             absl::StrCat("zeroing ", bytes, " bytes")));
  return buffer;
}

absl::Status GrowingDeviceBuffer::Reserve(int64_t bytes, cudaStream_t stream) {
  if (bytes <= buffer_.bytes()) return absl::OkStatus();
  const int64_t room = std::max(bytes, 2 * buffer_.bytes());
  buffer_ = {};  // waits for work that uses it
  ASSIGN_OR_RETURN(buffer_, AllocateCuda(room, stream));
  return absl::OkStatus();
}

UploadBuffer::~UploadBuffer() {
  if (sent_ != nullptr) {
    cudaEventSynchronize(sent_);  // the copy reads what is freed next
    cudaEventDestroy(sent_);
  }
  if (data_ != nullptr) cudaFreeHost(data_);
}

absl::Status UploadBuffer::Reserve(int64_t bytes) {
  if (sent_ == nullptr) {
    RETURN_IF_ERROR(
        CudaStatus(cudaEventCreateWithFlags(&sent_, cudaEventDisableTiming), "making an event"));
  }
  RETURN_IF_ERROR(CudaStatus(cudaEventSynchronize(sent_), "waiting for a copy to the device"));
  if (bytes <= bytes_) return absl::OkStatus();
  const int64_t room = std::max(bytes, 2 * bytes_);
  if (data_ != nullptr) {
    bytes_ = 0;
    RETURN_IF_ERROR(
        CudaStatus(cudaFreeHost(std::exchange(data_, nullptr)), "freeing page-locked memory"));
  }
  void* data = nullptr;
  RETURN_IF_ERROR(
      CudaStatus(cudaHostAlloc(&data, static_cast<size_t>(room), cudaHostAllocDefault),
                 absl::StrCat("allocation of ", room, " bytes of page-locked host memory")));
  data_ = static_cast<uint8_t*>(data);
  bytes_ = room;
  return absl::OkStatus();
}

absl::Status UploadBuffer::Send(int64_t bytes, void* device, cudaStream_t stream) {
  CHECK(bytes <= bytes_) << "bytes=" << bytes << " of " << bytes_;
  RETURN_IF_ERROR(CudaStatus(
      cudaMemcpyAsync(device, data_, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, stream),
      absl::StrCat("copy of ", bytes, " bytes to the device")));
  return CudaStatus(cudaEventRecord(sent_, stream), "recording an event");
}

}  // namespace longhaul::worker::backend
