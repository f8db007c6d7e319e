#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/kv_cache/kv_layout.h"
#include "kernels/status.h"
#include "worker/backend/backend.h"
#include "worker/tensor.h"

namespace longhaul::worker::backend {

// "rms_norm([5, 896] and [5, 896]): InvalidArgument", as backends report what a kernel refused.
inline absl::Status ToStatus(kernels::KernelStatus status, const char* op,
                             const std::string& sizes) {
  if (status == kernels::KernelStatus::kOk) return absl::OkStatus();
  const std::string message = absl::StrCat(op, "(", sizes, "): ", KernelStatusName(status));
  if (status == kernels::KernelStatus::kUnimplemented) return absl::UnimplementedError(message);
  return absl::InternalError(message);
}

inline std::string Sizes(TensorView x, TensorView y) {
  return absl::StrCat("[", x.rows, ", ", x.cols, "] and [", y.rows, ", ", y.cols, "]");
}

inline kernels::KvLayout LayoutOf(const KvShape& shape) {
  return {.num_kv_heads = shape.num_kv_heads,
          .head_dim = shape.head_dim,
          .dtype = shape.dtype == KvDType::kFloat32 ? kernels::KvDtype::kFloat32
                                                    : kernels::KvDtype::kBFloat16};
}

}  // namespace longhaul::worker::backend
