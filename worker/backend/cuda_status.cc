#include "worker/backend/cuda_status.h"

#include "absl/strings/str_cat.h"
#include "worker/backend/kernel_status.h"

namespace longhaul::worker::backend {

absl::Status CudaStatus(cudaError_t error, const std::string& attempted) {
  if (error == cudaSuccess) return absl::OkStatus();
  cudaGetLastError();  // the next call is not to find it again
  const std::string message =
      absl::StrCat(attempted, ": ", cudaGetErrorString(error), " (", cudaGetErrorName(error), ")");
  switch (error) {
    case cudaErrorMemoryAllocation:
      return absl::ResourceExhaustedError(message);
    case cudaErrorNoDevice:
    case cudaErrorInsufficientDriver:
    case cudaErrorInitializationError:
    case cudaErrorInvalidDevice:
      return absl::FailedPreconditionError(message);
    default:
      return absl::InternalError(message);
  }
}

absl::Status Launched(kernels::KernelStatus status, const char* op, const std::string& sizes) {
  if (status != kernels::KernelStatus::kLibraryFailure) return ToStatus(status, op, sizes);
  const cudaError_t error = cudaGetLastError();
  const std::string attempted = absl::StrCat(op, "(", sizes, ")");
  return error == cudaSuccess ? ToStatus(status, op, sizes) : CudaStatus(error, attempted);
}

}  // namespace longhaul::worker::backend
