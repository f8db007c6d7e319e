#include "worker/group_shape.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/planning/layer_split.h"
#include "common/status_macros.h"

namespace longhaul::worker {
namespace {

// What a shard takes a T-th of.
absl::Status CheckShards(int32_t shards, const char* what, int32_t count) {
  if (count % shards == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("--tensor-parallel-size is ", shards,
                                                 ", must divide the model's ", count, " ", what));
}

}  // namespace

GroupShape::GroupShape(int32_t num_layers) : GroupShape(1, {{.begin = 0, .end = num_layers}}) {}

GroupShape::GroupShape(int32_t tensor_parallel_size, std::vector<Layers> stages)
    : tensor_parallel_size_(tensor_parallel_size), stages_(std::move(stages)) {}

absl::StatusOr<GroupShape> GroupShape::Make(const Settings& settings, const ModelConfig& model) {
  const int64_t shards = settings.tensor_parallel_size;
  if (shards < 1 || shards * settings.pipeline_parallel_size > kMaxRanks) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a group of --tensor-parallel-size ", shards, " x --pipeline-parallel-size ",
        settings.pipeline_parallel_size, " ranks, must be 1 to ", kMaxRanks, " ranks"));
  }
  RETURN_IF_ERROR(CheckShards(settings.tensor_parallel_size, "KV heads (num_key_value_heads)",
                              model.num_kv_heads));
  RETURN_IF_ERROR(CheckShards(settings.tensor_parallel_size,
                              "columns of the MLP "
                              "(intermediate_size)",
                              model.intermediate_size));
  ASSIGN_OR_RETURN(const std::vector<int> counts,
                   planning::ParseLayerSplit(settings.layer_split, model.num_layers,
                                             settings.pipeline_parallel_size));
  std::vector<Layers> stages;
  int32_t begin = 0;
  for (const int count : counts) {
    stages.push_back({.begin = begin, .end = begin + count});
    begin += count;
  }
  return GroupShape(settings.tensor_parallel_size, std::move(stages));
}

}  // namespace longhaul::worker
