#include "tests/testing/model_runner.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "common/logging.h"
#include "common/status_macros.h"
#include "worker/backend/cpu_backend.h"
#include "worker/comm/local_communicator.h"
#include "worker/model/checkpoint.h"
#include "worker/model/weights.h"
#include "worker/rank/disk_tier.h"
#include "worker/rank/host_tier.h"
#include "worker/rank/kv_cache.h"

namespace longhaul::testing {

using worker::Slice;
using worker::StepPlan;
using worker::Unit;

absl::StatusOr<std::unique_ptr<ModelRunner>> ModelRunner::Create(
    const Options& options, std::unique_ptr<worker::backend::Backend> given) {
  std::unique_ptr<ModelRunner> runner(new ModelRunner);
  ASSIGN_OR_RETURN(runner->config_, ModelConfig::Load(options.model_dir));
  const ModelConfig& config = runner->config_;
  ASSIGN_OR_RETURN(const auto checkpoint, worker::model::Checkpoint::Open(options.model_dir));
  runner->backend_ =
      given != nullptr ? std::move(given) : worker::backend::MakeCpuBackend(options.threads);
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
      std::move(cache), worker::rank::StageLink(*runner->communicator_, backend));
  runner->sampler_ = std::make_unique<worker::rank::Sampler>(config.vocab_size, backend);
  runner->scorer_ = std::make_unique<worker::rank::PromptScorer>(*runner->stage_, backend,
                                                                 options.max_logits_bytes);
  const int64_t block_bytes = runner->cache().block_bytes();
  ASSIGN_OR_RETURN(auto host, worker::rank::HostTier::Create(options.host_slots, block_bytes));
  worker::rank::DiskTier disk;
  if (options.disk_slots > 0) {
    ASSIGN_OR_RETURN(
        disk, worker::rank::DiskTier::Open(options.disk_path, options.disk_slots, block_bytes));
  }
  runner->mover_ = std::make_unique<worker::rank::KvMover>(
      runner->cache(), backend, std::move(host), std::move(disk), runner->clock_);
  runner->executor_ = std::make_unique<worker::rank::Executor>(
      *runner->stage_, runner->sampler_.get(), runner->scorer_.get(), runner->clock_,
      runner->mover_.get());
  runner->sampler_->set_logits_observer(
      [raw = runner.get()](SequenceId, int64_t, std::span<const float> logits) {
        raw->output_.logits.emplace_back(logits.begin(), logits.end());
      });
  return runner;
}

absl::StatusOr<ModelRunner::Output> ModelRunner::Generate(std::span<const TokenId> prompt,
                                                          int num_tokens, const Cuts& cuts) {
  RETURN_IF_ERROR(RunPrompt(prompt, num_tokens > 0, cuts, Begin(prompt, std::nullopt)));
  int64_t begin = static_cast<int64_t>(prompt.size());
  while (static_cast<int>(output_.tokens.size()) < num_tokens) {
    const TokenId last = output_.tokens.back();
    RETURN_IF_ERROR(
        RunTokens({.begin = begin++, .token_ids = {last}, .sample = true}, cuts.layers, {}));
  }
  RETURN_IF_ERROR(End());
  return std::move(output_);
}

absl::StatusOr<std::vector<GeneratedToken>> ModelRunner::PromptLogprobs(
    std::span<const TokenId> prompt, int32_t num_top, const Cuts& cuts) {
  RETURN_IF_ERROR(RunPrompt(prompt, /*sample=*/false, cuts, Begin(prompt, num_top)));
  RETURN_IF_ERROR(End());
  return std::move(scored_);
}

absl::StatusOr<std::vector<std::vector<float>>> ModelRunner::LogitsBehindEach(
    std::span<const TokenId> prompt) {
  StepPlan first = Begin(prompt, std::nullopt);
  for (size_t i = 0; i < prompt.size(); ++i) {
    RETURN_IF_ERROR(
        RunTokens({.begin = static_cast<int64_t>(i), .token_ids = {prompt[i]}, .sample = true}, {},
                  std::exchange(first, {})));
  }
  RETURN_IF_ERROR(End());
  return std::move(output_.logits);
}

StepPlan ModelRunner::Begin(std::span<const TokenId> prompt,
                            std::optional<int32_t> prompt_logprobs) {
  output_ = {};
  scored_ = {};
  prompt_logprobs_ = prompt_logprobs;
  StepPlan first;
  first.starts.push_back({.sequence_id = ++sequence_,
                          .sampling = {.temperature = 0, .prompt_logprobs = prompt_logprobs},
                          .prompt_tokens = static_cast<int32_t>(prompt.size())});
  return first;
}

absl::Status ModelRunner::RunPrompt(std::span<const TokenId> prompt, bool sample, const Cuts& cuts,
                                    StepPlan first) {
  const int64_t prompt_tokens = static_cast<int64_t>(prompt.size());
  int64_t begin = 0;
  for (size_t chunk = 0; begin < prompt_tokens; ++chunk) {
    int64_t count = prompt_tokens - begin;
    if (!cuts.chunks.empty()) {
      count = std::min(count, cuts.chunks[std::min(chunk, cuts.chunks.size() - 1)]);
    }
    const int64_t end = begin + count;
    Slice slice{.begin = begin,
                .token_ids = {prompt.begin() + begin, prompt.begin() + end},
                .sample = sample && end == prompt_tokens};
    if (prompt_logprobs_ && end < prompt_tokens) slice.next_prompt_token = prompt[end];
    RETURN_IF_ERROR(RunTokens(std::move(slice), cuts.layers, std::exchange(first, {})));
    begin = end;
  }
  return absl::OkStatus();
}

absl::Status ModelRunner::End() {
  StepPlan end;
  end.step_id = ++last_step_;
  end.ends.push_back(sequence_);
  const std::atomic<bool> stop = false;
  return executor_->Execute(end, stop).status();
}

absl::Status ModelRunner::RunTokens(Slice slice, const std::vector<int32_t>& layer_cuts,
                                    StepPlan first) {
  double seconds = 0;
  slice.sequence_id = sequence_;
  const int64_t begin = slice.begin;
  // Blocks descend, so that a table that is not read shows.
  const int32_t held = static_cast<int32_t>((begin + kKvBlockTokens - 1) / kKvBlockTokens);
  const int32_t needed = static_cast<int32_t>(
      (begin + static_cast<int64_t>(slice.token_ids.size()) + kKvBlockTokens - 1) / kKvBlockTokens);
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
    for (const auto& part : result.prompt_logprobs) {
      CHECK(part.begin == static_cast<int64_t>(scored_.size()) + 1) << part.begin;
      scored_.insert(scored_.end(), part.tokens.begin(), part.tokens.end());
    }
    plan = {};
  }
  output_.step_seconds.push_back(seconds);
  return absl::OkStatus();
}

}  // namespace longhaul::testing
