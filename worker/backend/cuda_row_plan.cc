#include "worker/backend/cuda_row_plan.h"

#include <bit>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/backend/cuda_status.h"

namespace longhaul::worker::backend {

absl::Status CudaRowPlan::Fill(const RotaryRule& rule, const UnitRows& unit, cudaStream_t stream) {
  rows_.Pack(rule, unit);
  chunk_len_ = rule.chunk_len;
  RETURN_IF_ERROR(upload_.Reserve(rows_.bytes()));
  RETURN_IF_ERROR(arrays_.Reserve(rows_.bytes(), stream));
  rows_.Write(upload_.data());
  RETURN_IF_ERROR(upload_.Send(rows_.bytes(), arrays_.data(), stream));
  RETURN_IF_ERROR(ComputeAngles(rule, kernels::RopeVariant::kIntra, intra_, stream));
  if (rows_.has_succ()) {
    RETURN_IF_ERROR(ComputeAngles(rule, kernels::RopeVariant::kSucc, succ_, stream));
  }
  if (rows_.has_inter()) {
    RETURN_IF_ERROR(ComputeAngles(rule, kernels::RopeVariant::kInter, inter_, stream));
  }
  return absl::OkStatus();
}

CudaGraphs::Key CudaRowPlan::Key() const {
  CudaGraphs::Key key = {arrays_.address(), static_cast<uint64_t>(rows_.num_rows()),
                         static_cast<uint64_t>(chunk_len_), static_cast<uint64_t>(rows_.has_succ()),
                         static_cast<uint64_t>(rows_.has_inter())};
  for (const Angles* angles : {&intra_, &succ_, &inter_}) {
    key.push_back(angles->buffer.address());
    key.push_back(static_cast<uint64_t>(angles->sin_offset));
  }
  const PackedRows::Arrays& arrays = rows_.arrays();
  for (const PackedRows::Array& array :
       {arrays.query_scale, arrays.slots, arrays.num_empty, arrays.splits, arrays.decode_rows}) {
    key.push_back(static_cast<uint64_t>(array.offset));
    key.push_back(static_cast<uint64_t>(array.count));
  }
  key.push_back(static_cast<uint64_t>(arrays.block_tables.offset));
  return key;
}

absl::Status CudaRowPlan::ComputeAngles(const RotaryRule& rule, kernels::RopeVariant variant,
                                        Angles& angles, cudaStream_t stream) {
  const auto room = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(rows_.num_rows())));
  angles.sin_offset = room * (rule.head_dim / 2);
  RETURN_IF_ERROR(angles.buffer.Reserve(2 * angles.sin_offset * int64_t{sizeof(float)}, stream));
  float* cos = reinterpret_cast<float*>(angles.buffer.data());
  const kernels::RopeTableParams params = {.positions = At<int64_t>(rows_.arrays().positions),
                                           .num_rows = rows_.num_rows(),
                                           .head_dim = rule.head_dim,
                                           .theta = rule.theta,
                                           .variant = variant,
                                           .chunk_len = rule.chunk_len,
                                           .chunk_size = rule.chunk_size,
                                           .cos = cos,
                                           .sin = cos + angles.sin_offset};
  return Launched(kernels::RopeTableCuda(params, {stream}), "rope_table",
                  absl::StrCat(params.num_rows, " rows, head_dim ", rule.head_dim));
}

}  // namespace longhaul::worker::backend
