#pragma once

#include <cstdint>

namespace longhaul::worker {

enum class DType : uint8_t { kFloat32, kBFloat16, kFloat16 };

constexpr int64_t DTypeBytes(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

// A dense row-major matrix in the memory of the backend that allocated it (host memory on the CPU).
// A view: owns nothing. A vector is a matrix of one row.
struct TensorView {
  void* data = nullptr;
  DType dtype = DType::kFloat32;
  int64_t rows = 0;
  int64_t cols = 0;

  int64_t size() const { return rows * cols; }
  int64_t bytes() const { return size() * DTypeBytes(dtype); }
  // Rows [begin, begin + count).
  TensorView Rows(int64_t begin, int64_t count) const {
    return {static_cast<uint8_t*>(data) + begin * cols * DTypeBytes(dtype), dtype, count, cols};
  }
  float* f32() const { return static_cast<float*>(data); }
};

// A queue of work on a device; opaque. The CPU has none: calls are complete when they return.
struct Stream {
  void* handle = nullptr;
};

}  // namespace longhaul::worker
