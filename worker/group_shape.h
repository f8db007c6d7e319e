#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/model_config.h"

namespace longhaul::worker {

// Which rank of a group holds what: rank = stage * tensor_parallel_size + shard. Leader and ranks
// derive it from the same settings, so a rank knows its part before it has a leader. A value.
class GroupShape {
 public:
  static constexpr int32_t kMaxRanks = 256;

  struct Settings {
    int32_t tensor_parallel_size = 1;    // shards of each layer
    int32_t pipeline_parallel_size = 1;  // stages
    std::string layer_split;             // layers of each stage, "a,b,..."; empty = even
  };
  struct Layers {
    int32_t begin = 0;
    int32_t end = 0;  // half-open
  };

  // One rank with all layers.
  explicit GroupShape(int32_t num_layers);
  // Errors: kInvalidArgument, naming the flag and the limit.
  static absl::StatusOr<GroupShape> Make(const Settings& settings, const ModelConfig& model);

  int32_t tensor_parallel_size() const { return tensor_parallel_size_; }
  int32_t pipeline_parallel_size() const { return static_cast<int32_t>(stages_.size()); }
  int32_t num_ranks() const { return tensor_parallel_size_ * pipeline_parallel_size(); }

  // 0 <= rank < num_ranks().
  int32_t StageOf(int32_t rank) const { return rank / tensor_parallel_size_; }
  int32_t ShardOf(int32_t rank) const { return rank % tensor_parallel_size_; }
  Layers LayersOf(int32_t rank) const { return stages_[static_cast<size_t>(StageOf(rank))]; }

 private:
  GroupShape(int32_t tensor_parallel_size, std::vector<Layers> stages);

  int32_t tensor_parallel_size_;
  std::vector<Layers> stages_;
};

}  // namespace longhaul::worker
