#include "cli/prefill_forecast.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <optional>

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

constexpr double kUnbounded = std::numeric_limits<double>::infinity();
constexpr int32_t kSimulatedBatchedTokens = 131'072;

absl::StatusOr<SharedForecast> ForecastShared(const ModelConfig& model,
                                              const planning::GpuCosts& gpu,
                                              const PlanConfig& config,
                                              const planning::CutRules& rules,
                                              std::optional<planning::SparseSettings> sparse,
                                              const PrefillForecast& alone) {
  if (config.pipeline_parallel_size != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("--short-requests-per-second is for one card, --pipeline-parallel-size is ",
                     config.pipeline_parallel_size));
  }
  const double target_seconds = 1e-3 * config.step_target_ms;
  const double max_seconds = config.max_step_ms > 0 ? 1e-3 * config.max_step_ms : kUnbounded;
  SharedForecast shared = {
      .load = {.requests_per_second = config.short_requests_per_second,
               .most_prompt_tokens = config.short_prompt_tokens,
               .output_tokens = config.short_output_tokens},
      .limits = {.seconds_beside_others = target_seconds, .seconds_alone = max_seconds},
      .guarded = {},
      .unguarded = {}};
  // Chunks of which a single layer is within the least limit; the simulation cuts them.
  const planning::GpuPrefillCosts guarded(model, gpu, {model.num_layers},
                                          std::min(target_seconds, max_seconds), sparse);
  absl::StatusOr<planning::ChunkPlan> plan =
      planning::FastestChunks(guarded, alone.prompt_tokens, rules, 1);
  RETURN_IF_ERROR(plan.status()) << "with units of at most " << config.step_target_ms
                                 << " ms (--step-target-ms)";
  const planning::GpuPrefillCosts costs(model, gpu, {model.num_layers}, kUnbounded, sparse);
  shared.guarded =
      planning::SimulateShortBesideLong(costs, plan->chunks, shared.limits, shared.load);
  shared.unguarded =
      planning::SimulateShortBesideLong(costs, alone.one_stage.chunks, {}, shared.load);
  return shared;
}

}  // namespace

double PrefillForecast::Efficiency(const planning::ChunkPlan& plan) const {
  return one_stage.run.ttft_seconds / (static_cast<double>(layers.size()) * plan.run.ttft_seconds);
}

double PrefillForecast::Loss(const planning::ChunkPlan& plan) const {
  return 1 / Efficiency(plan) - 1;
}

double PrefillForecast::EfficiencyBound() const {
  const int sum = std::accumulate(layers.begin(), layers.end(), 0);
  return static_cast<double>(sum) /
         (static_cast<double>(layers.size()) * *std::max_element(layers.begin(), layers.end()));
}

absl::StatusOr<PrefillForecast> PrefillForecast::Make(const std::string& model_dir,
                                                      const PlanConfig& config) {
  ASSIGN_OR_RETURN(const ModelConfig model, ModelConfig::Load(model_dir));
  ASSIGN_OR_RETURN(planning::GpuSet gpus, planning::GpuSet::Parse(config.gpu));
  if (gpus.count != config.pipeline_parallel_size) {
    return absl::InvalidArgumentError(
        absl::StrCat("--gpu is ", config.gpu, ", must be one card for each of ",
                     config.pipeline_parallel_size, " stages (--pipeline-parallel-size)"));
  }
  if (config.tensor_parallel_size > 1) {
    return absl::InvalidArgumentError(absl::StrCat("--tensor-parallel-size is ",
                                                   config.tensor_parallel_size,
                                                   ", --simulate is for stages of one card"));
  }
  const int64_t prompt_tokens =
      config.prompt_tokens > 0 ? config.prompt_tokens : config.max_model_len;
  if (prompt_tokens > model.max_position_embeddings) {
    return absl::InvalidArgumentError(
        absl::StrCat("--prompt-tokens is ", prompt_tokens, ", the model's limit is ",
                     model.max_position_embeddings, " (max_position_embeddings)"));
  }
  if (config.attention_range_keys >= 0) {
    gpus.costs.attention_range_keys = config.attention_range_keys;
  }

  PrefillForecast forecast;
  forecast.gpu = gpus.costs.name;
  forecast.gpu_description = gpus.costs.description;
  forecast.attention = config.attention;
  forecast.prompt_tokens = prompt_tokens > 0 ? prompt_tokens : model.max_position_embeddings;
  forecast.max_step_ms = config.max_step_ms;
  const int num_stages = config.pipeline_parallel_size;
  forecast.plans_in_flight = config.plans_in_flight > 0 ? config.plans_in_flight : num_stages + 1;
  ASSIGN_OR_RETURN(forecast.layers,
                   planning::ParseLayerSplit(config.layer_split, model.num_layers, num_stages));

  ASSIGN_OR_RETURN(
      const PrefillRules prefill_rules,
      PrefillRules::Make(model_dir, model, config.attention,
                         config.max_num_batched_tokens > 0 ? config.max_num_batched_tokens
                                                           : kSimulatedBatchedTokens));
  const planning::CutRules& rules = prefill_rules.cuts;
  const std::optional<planning::SparseSettings>& sparse = prefill_rules.sparse;
  const planning::GpuPrefillCosts one(model, gpus.costs, {model.num_layers}, kUnbounded, sparse);
  ASSIGN_OR_RETURN(forecast.one_stage,
                   planning::FastestChunks(one, forecast.prompt_tokens, rules, 1));
  const double max_step_seconds = config.max_step_ms > 0 ? 1e-3 * config.max_step_ms : kUnbounded;
  const planning::GpuPrefillCosts costs(model, gpus.costs, forecast.layers, max_step_seconds,
                                        sparse);
  absl::StatusOr<planning::ChunkPlan> dynamic =
      planning::FastestChunks(costs, forecast.prompt_tokens, rules, forecast.plans_in_flight);
  RETURN_IF_ERROR(dynamic.status())
      << "with units of at most " << config.max_step_ms << " ms (--max-step-ms)";
  forecast.dynamic = *std::move(dynamic);
  ASSIGN_OR_RETURN(
      forecast.best_fixed,
      planning::FastestFixedChunks(costs, forecast.prompt_tokens, rules, forecast.plans_in_flight));
  if (config.short_requests_per_second > 0) {
    ASSIGN_OR_RETURN(forecast.shared,
                     ForecastShared(model, gpus.costs, config, rules, sparse, forecast));
  }
  return forecast;
}

}  // namespace longhaul::cli
