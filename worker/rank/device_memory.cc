#include "worker/rank/device_memory.h"

#include <vector>

#include "absl/strings/str_format.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "common/types.h"

namespace longhaul::worker::rank {
namespace {

double Gb(int64_t bytes) { return static_cast<double>(bytes) / 1e9; }

}  // namespace

absl::StatusOr<planning::MemoryBudget> BudgetDeviceMemory(const RankConfig& config,
                                                          const ModelConfig& model,
                                                          const GroupShape& shape,
                                                          int64_t free_bytes) {
  const planning::MemoryLimits limits = {.device_bytes = free_bytes,
                                         .utilization = config.gpu_memory_utilization,
                                         .max_model_len = config.max_model_len > 0
                                                              ? config.max_model_len
                                                              : model.max_position_embeddings,
                                         .max_num_batched_tokens = config.max_num_batched_tokens,
                                         .max_num_seqs = config.max_num_seqs};
  if (config.max_model_len > 0 && config.kv_cache_gib == 0) {
    std::vector<int> layers;
    for (int32_t rank = 0; rank < shape.num_ranks(); rank += shape.tensor_parallel_size()) {
      layers.push_back(shape.LayersOf(rank).end - shape.LayersOf(rank).begin);
    }
    RETURN_IF_ERROR(planning::CheckMemory(model, layers, shape.tensor_parallel_size(), limits));
  }
  const GroupShape::Layers layers = shape.LayersOf(config.rank);
  const planning::MemoryBudget budget =
      planning::BudgetMemory(model,
                             {.num_layers = layers.end - layers.begin,
                              .has_embedding = layers.begin == 0,
                              .has_head = layers.end == model.num_layers,
                              .shard = shape.ShardOf(config.rank),
                              .num_shards = shape.tensor_parallel_size(),
                              .num_stages = shape.pipeline_parallel_size()},
                             limits);
  LOG(INFO) << "event=memory_budget rank=" << config.rank
            << absl::StrFormat(
                   " free_gb=%.2f allowed_gb=%.2f weights_gb=%.2f activations_gb=%.2f "
                   "logits_gb=%.2f workspaces_gb=%.2f runtime_gb=%.2f kv_gb=%.2f kv_tokens=%d",
                   Gb(free_bytes), Gb(budget.usable), Gb(budget.weights), Gb(budget.activations),
                   Gb(budget.logits), Gb(budget.workspaces), Gb(budget.runtime),
                   Gb(budget.KvBlocks() * budget.kv_block), budget.KvBlocks() * kKvBlockTokens);
  return budget;
}

}  // namespace longhaul::worker::rank
