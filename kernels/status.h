#pragma once

namespace longhaul::kernels {

// What a kernel launcher returns. The backend turns it into a Status with the op's name and sizes.
// Unless an op says otherwise, its outputs are unspecified after anything but kOk.
enum class KernelStatus {
  kOk = 0,
  kInvalidArgument,  // a size, pointer or id outside the op's contract: a bug of the caller
  kUnimplemented,    // a well-formed request outside the supported set (head_dim, dtype)
  kNotFinite,        // an input holds NaN or +Inf where the op looks for it (sampling)
  kNoCandidate,      // every token is forbidden (sampling)
  kLibraryFailure,   // a library below refused the call, for want of memory say
};

// The enumerator without its k, for messages. Never null.
constexpr const char* KernelStatusName(KernelStatus status) {
  switch (status) {
    case KernelStatus::kOk:
      return "Ok";
    case KernelStatus::kInvalidArgument:
      return "InvalidArgument";
    case KernelStatus::kUnimplemented:
      return "Unimplemented";
    case KernelStatus::kNotFinite:
      return "NotFinite";
    case KernelStatus::kNoCandidate:
      return "NoCandidate";
    case KernelStatus::kLibraryFailure:
      return "LibraryFailure";
  }
  return "Unknown";
}

}  // namespace longhaul::kernels
