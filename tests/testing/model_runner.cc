#include "tests/testing/model_runner.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "common/status_macros.h"
#include "worker/backend/cpu_backend.h"
#include "worker/comm/local_communicator.h"
#include "worker/model/checkpoint.h"
#include "worker/model/weights.h"
#include "worker/rank/kv_cache.h"

namespace longhaul::testing {

using worker::Slice;
using worker::StepPlan;
using worker::Unit;

absl::StatusOr<std::unique_ptr<ModelRunner>> ModelRunner::Create(const Options& options) {
  std::unique_ptr<ModelRunner> runner(new ModelRunner);
  ASSIGN_OR_RETURN(runner->config_, ModelConfig::Load(options.model_dir));
  const ModelConfig& config = runner->config_;
  ASSIGN_OR_RETURN(const auto checkpoint, worker::model::Checkpoint::Open(options.model_dir));
  runner->backend_ = worker::backend::MakeCpuBackend(options.threads);
  worker::backend::Backend& backend = *runner->backend_;
  ASSIGN_OR_RETURN(
      auto weights,
      worker::model::LoadWeights(config, checkpoint, {.layer_end = config.num_layers}, backend));
  const int64_t blocks = (options.max_tokens + kKvBlockTokens - 1) / kKvBlockTokens;
  ASSIGN_OR_RETURN(auto cache,
                   worker::rank::KvCache::Create(backend,
                                                 {.num_kv_heads = config.num_kv_heads,
                                                  .head_dim = config.head_dim,
                                                  .dtype = options.kv_dtype},
                                                 config.num_layers, static_cast<int32_t>(blocks)));
  runner->communicator_ = std::move(worker::comm::MakeLocalGroup(1).front());
  runner->stage_ = std::make_unique<worker::rank::PipelineStage>(
      std::make_unique<worker::model::Qwen2>(config, options.attention, std::move(weights),
                                             backend),
      std::move(cache), *runner->communicator_);
  runner->sampler_ = std::make_unique<worker::rank::Sampler>(config.vocab_size, backend);
  runner->scorer_ = std::make_unique<worker::rank::PromptScorer>(*runner->stage_, backend);
  runner->executor_ = std::make_unique<worker::rank::Executor>(
      *runner->stage_, runner->sampler_.get(), runner->scorer_.get(), runner->clock_);
  runner->sampler_->set_logits_observer(
      [raw = runner.get()](SequenceId, int64_t, std::span<const float> logits) {
        raw->output_.logits.emplace_back(logits.begin(), logits.end());
      });
  return runner;
}

absl::StatusOr<ModelRunner::Output> ModelRunner::Generate(std::span<const TokenId> prompt,
                                                          int num_tokens, const Cuts& cuts) {
  output_ = {};
  ++sequence_;
  StepPlan first;
  first.starts.push_back({.sequence_id = sequence_,
                          .sampling = {.temperature = 0},
                          .prompt_tokens = static_cast<int32_t>(prompt.size())});
  const int64_t prompt_tokens = static_cast<int64_t>(prompt.size());
  int64_t begin = 0;
  for (size_t chunk = 0; begin < prompt_tokens; ++chunk) {
    int64_t count = prompt_tokens - begin;
    if (!cuts.chunks.empty()) {
      count = std::min(count, cuts.chunks[std::min(chunk, cuts.chunks.size() - 1)]);
    }
    const bool is_last = begin + count == prompt_tokens;
    RETURN_IF_ERROR(RunTokens(prompt.subspan(begin, count), begin, is_last && num_tokens > 0,
                              cuts.layers, std::exchange(first, {})));
    begin += count;
  }
  while (static_cast<int>(output_.tokens.size()) < num_tokens) {
    const TokenId last = output_.tokens.back();
    RETURN_IF_ERROR(RunTokens({&last, 1}, begin++, /*sample=*/true, cuts.layers, {}));
  }
  StepPlan end;
  end.step_id = ++last_step_;
  end.ends.push_back(sequence_);
  const std::atomic<bool> stop = false;
  RETURN_IF_ERROR(executor_->Execute(end, stop));
  return std::move(output_);
}

absl::Status ModelRunner::RunTokens(std::span<const TokenId> ids, int64_t begin, bool sample,
                                    const std::vector<int32_t>& layer_cuts, StepPlan first) {
  double seconds = 0;
  Slice slice{.sequence_id = sequence_,
              .begin = begin,
              .token_ids = {ids.begin(), ids.end()},
              .sample = sample};
  // Blocks descend, so that a table that is not read shows.
  const int32_t held = static_cast<int32_t>((begin + kKvBlockTokens - 1) / kKvBlockTokens);
  const int32_t needed = static_cast<int32_t>(
      (begin + static_cast<int64_t>(ids.size()) + kKvBlockTokens - 1) / kKvBlockTokens);
  slice.first_table_entry = held;
  for (int32_t entry = held; entry < needed; ++entry) {
    slice.new_block_ids.push_back(stage_->cache().num_blocks() - 1 - entry);
  }
  std::vector<int32_t> bounds = layer_cuts;
  bounds.insert(bounds.begin(), 0);
  bounds.push_back(config_.num_layers);
  StepPlan plan = std::move(first);
  for (size_t i = 0; i + 1 < bounds.size(); ++i) {
    plan.step_id = ++last_step_;
    plan.units = {Unit{.unit_id = plan.step_id,
                       .layer_begin = bounds[i],
                       .layer_end = bounds[i + 1],
                       .slices = {slice}}};
    const std::atomic<bool> stop = false;
    ASSIGN_OR_RETURN(const worker::StepResult result, executor_->Execute(plan, stop));
    if (!result.errors.empty()) return absl::InternalError(result.errors.front().message);
    seconds += result.seconds;
    for (const auto& sampled : result.sampled) output_.tokens.push_back(sampled.token.token);
    plan = {};
  }
  output_.step_seconds.push_back(seconds);
  return absl::OkStatus();
}

}  // namespace longhaul::testing
