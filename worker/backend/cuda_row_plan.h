#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/rope/rope_qkv_paged.h"
#include "kernels/rope/rope_table.h"
#include "worker/backend/backend.h"
#include "worker/backend/cuda_graphs.h"
#include "worker/backend/cuda_memory.h"
#include "worker/backend/packed_rows.h"

namespace longhaul::worker::backend {

// A unit's arrays on the device, all in one piece, and its angles.
//
// Owned by one thread. Errors: kResourceExhausted, kInternal.
class CudaRowPlan final : public RowPlan {
 public:
  // Enqueues the copies of the unit's arrays, and what computes its angles.
  absl::Status Fill(const RotaryRule& rule, const UnitRows& unit, cudaStream_t stream);

  // Null for an array without entries.
  template <typename T>
  const T* At(const PackedRows::Array& array) const {
    if (array.count == 0) return nullptr;
    return reinterpret_cast<const T*>(arrays_.data() + array.offset);
  }
  // Null where no row reaches so far.
  kernels::RopeAngles intra() const { return AnglesOf(intra_); }
  kernels::RopeAngles succ() const {
    return rows_.has_succ() ? AnglesOf(succ_) : kernels::RopeAngles{};
  }
  kernels::RopeAngles inter() const {
    return rows_.has_inter() ? AnglesOf(inter_) : kernels::RopeAngles{};
  }

  // All of the plan that launches of a layer's ops hang on.
  CudaGraphs::Key Key() const;

  const PackedRows& rows() const { return rows_; }
  int64_t chunk_len() const { return chunk_len_; }

 private:
  // cos [T, D/2], then sin.
  struct Angles {
    GrowingDeviceBuffer buffer;
    int64_t sin_offset = 0;  // elements; stays while the number of rows does, or nearly
  };

  static kernels::RopeAngles AnglesOf(const Angles& angles) {
    const float* cos = reinterpret_cast<const float*>(angles.buffer.data());
    return {.cos = cos, .sin = cos + angles.sin_offset};
  }

  absl::Status ComputeAngles(const RotaryRule& rule, kernels::RopeVariant variant, Angles& angles,
                             cudaStream_t stream);

  PackedRows rows_;
  int64_t chunk_len_ = 0;
  UploadBuffer upload_;
  GrowingDeviceBuffer arrays_;
  Angles intra_, succ_, inter_;
};

}  // namespace longhaul::worker::backend
