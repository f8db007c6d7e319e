#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/clock.h"
#include "common/model_config.h"
#include "common/types.h"
#include "worker/backend/backend.h"
#include "worker/comm/communicator.h"
#include "worker/model/qwen2.h"
#include "worker/rank/executor.h"
#include "worker/rank/kv_cache.h"
#include "worker/rank/kv_mover.h"
#include "worker/rank/pipeline_stage.h"
#include "worker/rank/prompt_scorer.h"
#include "worker/rank/sampler.h"
#include "worker/step_plan.h"

namespace longhaul::testing {

// A model run in this process: one rank's executor, fed with step plans as a leader would make
// them, without leader, wire or threads of its own. One sequence at a time.
class ModelRunner {
 public:
  struct Options {
    std::string model_dir;
    worker::model::AttentionOptions attention;
    worker::backend::KvDType kv_dtype = worker::backend::KvDType::kFloat32;
    int threads = 0;         // one a core
    int64_t max_tokens = 0;  // of a sequence: what the KV cache holds
    int64_t max_logits_bytes = worker::rank::PromptScorer::kMaxLogitsBytes;
    int32_t host_slots = 0;  // KV blocks off the device
    int32_t disk_slots = 0;  // in disk_path
    std::string disk_path;
  };
  // On `backend`; without one on the CPU, with options.threads.
  static absl::StatusOr<std::unique_ptr<ModelRunner>> Create(
      const Options& options, std::unique_ptr<worker::backend::Backend> backend = nullptr);

  // How a prompt is cut.
  struct Cuts {
    // Tokens of each prefill chunk, the last repeated until the prompt ends; empty = in one go.
    std::vector<int64_t> chunks;
    // Layers before which units are cut, ascending; applies to every unit.
    std::vector<int32_t> layers;
  };

  struct Output {
    std::vector<TokenId> tokens;             // greedy
    std::vector<std::vector<float>> logits;  // [tokens][V], from which each was chosen
    // Execution time of each step: the prefill chunks, then one a token but the first.
    std::vector<double> step_seconds;
  };
  // Continues `prompt` greedily by `num_tokens` tokens, the model's end tokens like any other.
  absl::StatusOr<Output> Generate(std::span<const TokenId> prompt, int num_tokens,
                                  const Cuts& cuts = {});
  // Logprobs of the prompt's tokens from its second on, with `num_top` alternatives each.
  absl::StatusOr<std::vector<GeneratedToken>> PromptLogprobs(std::span<const TokenId> prompt,
                                                             int32_t num_top,
                                                             const Cuts& cuts = {});
  // [tokens][V]: the logits behind each token, which run one by one.
  absl::StatusOr<std::vector<std::vector<float>>> LogitsBehindEach(std::span<const TokenId> prompt);

  const ModelConfig& config() const { return config_; }
  worker::rank::Executor& executor() { return *executor_; }
  // Of every token sampled since the last Generate or alike began.
  const std::vector<std::vector<float>>& logits() const { return output_.logits; }
  const worker::rank::KvCache& cache() const { return stage_->cache(); }

 private:
  ModelRunner() = default;
  // The first plan of a new sequence.
  worker::StepPlan Begin(std::span<const TokenId> prompt, std::optional<int32_t> prompt_logprobs);
  // All of a prompt, in chunks.
  absl::Status RunPrompt(std::span<const TokenId> prompt, bool sample, const Cuts& cuts,
                         worker::StepPlan first);
  // One plan a layer range, the last of which samples if `sample` is set.
  absl::Status RunTokens(worker::Slice slice, const std::vector<int32_t>& layer_cuts,
                         worker::StepPlan first);
  absl::Status End();

  ModelConfig config_;
  SystemClock clock_;
  std::unique_ptr<worker::backend::Backend> backend_;
  std::unique_ptr<worker::comm::Communicator> communicator_;
  std::unique_ptr<worker::rank::PipelineStage> stage_;
  std::unique_ptr<worker::rank::Sampler> sampler_;
  std::unique_ptr<worker::rank::PromptScorer> scorer_;
  std::unique_ptr<worker::rank::KvMover> mover_;
  std::unique_ptr<worker::rank::Executor> executor_;
  StepId last_step_ = 0;
  SequenceId sequence_ = 0;
  std::optional<int32_t> prompt_logprobs_;  // of the sequence
  std::vector<GeneratedToken> scored_;
  Output output_;
};

}  // namespace longhaul::testing
