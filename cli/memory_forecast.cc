#include "cli/memory_forecast.h"

#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cli/prefill_rules.h"
#include "common/model_config.h"
#include "common/planning/chunk_search.h"
#include "common/planning/gpu_costs.h"
#include "common/planning/gpu_prefill_costs.h"
#include "common/planning/layer_split.h"
#include "common/status_macros.h"

namespace longhaul::cli {
namespace {

// The default of longhaul-worker leader.
constexpr int32_t kServedBatchedTokens = 2048;

// What the CUDA runtime takes of a card's memory before a rank does. An assumption.
constexpr int64_t kRuntimeBytes = 500'000'000;

struct Published {
  int32_t num_layers;
  int32_t hidden_size;
  int64_t bytes;
};
// Of Qwen2.5-7B-Instruct-1M and Qwen2.5-14B-Instruct-1M, as their model cards say.
constexpr Published kPublished[] = {{28, 3584, 120'000'000'000}, {48, 5120, 320'000'000'000}};

int64_t PublishedBytes(const ModelConfig& model) {
  for (const Published& published : kPublished) {
    if (published.num_layers == model.num_layers && published.hidden_size == model.hidden_size) {
      return published.bytes;
    }
  }
  return 0;
}

absl::StatusOr<int32_t> ShardsOf(const PlanConfig& config, const ModelConfig& model, int cards) {
  const int32_t stages = config.pipeline_parallel_size;
  int32_t shards = config.tensor_parallel_size;
  if (shards == 0 && cards % stages == 0) shards = cards / stages;
  if (int64_t{shards} * stages != cards) {
    return absl::InvalidArgumentError(absl::StrCat("--gpu is ", config.gpu,
                                                   ", must be --tensor-parallel-size x ", stages,
                                                   " cards (--pipeline-parallel-size)"));
  }
  if (model.num_kv_heads % shards != 0 || model.intermediate_size % shards != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(shards, " cards share each layer (--tensor-parallel-size), must divide the ",
                     model.num_kv_heads, " KV heads and the intermediate size ",
                     model.intermediate_size, ": raise --pipeline-parallel-size"));
  }
  return shards;
}

// A stage's cards compute their parts at the same time, then sum what they have, twice a layer.
absl::StatusOr<double> TtftSeconds(const ModelConfig& model, const planning::GpuCosts& gpu,
                                   const PrefillRules& rules, const PlanConfig& config,
                                   const MemoryForecast& forecast) {
  const int32_t shards = forecast.num_shards;
  ModelConfig part = model;
  part.num_heads /= shards;
  part.num_kv_heads /= shards;
  part.intermediate_size /= shards;
  part.vocab_size /= shards;
  const double max_seconds =
      config.max_step_ms > 0 ? 1e-3 * config.max_step_ms : std::numeric_limits<double>::infinity();
  const planning::GpuPrefillCosts costs(part, gpu, forecast.layers, max_seconds, rules.sparse);
  const int num_stages = static_cast<int>(forecast.layers.size());
  const int plans = config.plans_in_flight > 0 ? config.plans_in_flight : num_stages + 1;
  absl::StatusOr<planning::ChunkPlan> plan =
      planning::FastestChunks(costs, forecast.prompt_tokens, rules.cuts, plans);
  RETURN_IF_ERROR(plan.status()) << "with units of at most " << config.max_step_ms
                                 << " ms (--max-step-ms)";
  const double summed = static_cast<double>(forecast.prompt_tokens) * model.hidden_size * 2 * 2 *
                        model.num_layers / num_stages;
  // Of n cards each sends 2 (n - 1) / n of the bytes.
  const double traffic = 2.0 * (shards - 1) / shards;
  return plan->run.ttft_seconds + traffic * summed / gpu.all_reduce_bytes_per_second;
}

}  // namespace

absl::StatusOr<MemoryForecast> MemoryForecast::Make(const std::string& model_dir,
                                                    const PlanConfig& config) {
  ASSIGN_OR_RETURN(const ModelConfig model, ModelConfig::Load(model_dir));
  ASSIGN_OR_RETURN(planning::GpuSet gpus, planning::GpuSet::Parse(config.gpu));
  if (config.attention_range_keys >= 0) {
    gpus.costs.attention_range_keys = config.attention_range_keys;
  }
  if (config.max_model_len > model.max_position_embeddings) {
    return absl::InvalidArgumentError(
        absl::StrCat("--max-model-len is ", config.max_model_len, ", the model's limit is ",
                     model.max_position_embeddings, " (max_position_embeddings)"));
  }
  MemoryForecast forecast;
  forecast.gpu = gpus.costs.name;
  forecast.gpu_description = gpus.costs.description;
  ASSIGN_OR_RETURN(forecast.num_shards, ShardsOf(config, model, gpus.count));
  ASSIGN_OR_RETURN(forecast.layers, planning::ParseLayerSplit(config.layer_split, model.num_layers,
                                                              config.pipeline_parallel_size));
  forecast.card_bytes = gpus.costs.memory_bytes;
  planning::MemoryLimits& limits = forecast.limits;
  limits.device_bytes = forecast.card_bytes - kRuntimeBytes;
  limits.utilization = config.gpu_memory_utilization;
  limits.max_model_len =
      config.max_model_len > 0 ? config.max_model_len : model.max_position_embeddings;
  limits.max_num_batched_tokens =
      config.max_num_batched_tokens > 0 ? config.max_num_batched_tokens : kServedBatchedTokens;
  limits.max_num_seqs = config.max_num_seqs;
  if (limits.max_num_batched_tokens < limits.max_num_seqs + kKvBlockTokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("--max-num-batched-tokens is ", limits.max_num_batched_tokens,
                     ", must be at least --max-num-seqs + ", kKvBlockTokens, " = ",
                     limits.max_num_seqs + kKvBlockTokens));
  }
  forecast.attention = config.attention;
  forecast.prompt_tokens = config.prompt_tokens > 0 ? config.prompt_tokens : limits.max_model_len;
  if (forecast.prompt_tokens > limits.max_model_len) {
    return absl::InvalidArgumentError(absl::StrCat("--prompt-tokens is ", config.prompt_tokens,
                                                   ", --max-model-len ", limits.max_model_len));
  }
  ASSIGN_OR_RETURN(const PrefillRules rules, PrefillRules::Make(model_dir, model, config.attention,
                                                                limits.max_num_batched_tokens));

  forecast.published_bytes = PublishedBytes(model);
  forecast.tightest =
      planning::BudgetTightestRank(model, forecast.layers, forecast.num_shards, limits);
  forecast.fits = planning::CheckMemory(model, forecast.layers, forecast.num_shards, limits);
  if (forecast.fits.ok()) {
    ASSIGN_OR_RETURN(forecast.ttft_seconds,
                     TtftSeconds(model, gpus.costs, rules, config, forecast));
  }
  return forecast;
}

}  // namespace longhaul::cli
