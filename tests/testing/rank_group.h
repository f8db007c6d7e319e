#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/clock.h"
#include "common/model_config.h"
#include "common/types.h"
#include "worker/backend/backend.h"
#include "worker/comm/communicator.h"
#include "worker/model/qwen2.h"
#include "worker/rank/executor.h"
#include "worker/rank/pipeline_stage.h"
#include "worker/rank/prompt_scorer.h"
#include "worker/rank/sampler.h"
#include "worker/rank/shard_communicator.h"
#include "worker/step_plan.h"

namespace longhaul::testing {

// The ranks of a group as threads of this process, without leader and wire: each has a backend, its
// part of the weights, a KV cache and an executor of its own. KV begins as NaN, and so does what an
// op is to write.
class RankGroup {
 public:
  using Communicator = worker::comm::Communicator;
  // Takes a place in a communicator; called on the rank's thread.
  using Connect = std::function<absl::StatusOr<std::unique_ptr<Communicator>>(
      const std::string& name, int rank, int size)>;

  struct Options {
    std::string model_dir;
    int32_t tensor_parallel_size = 1;
    std::vector<int32_t> layer_bounds;  // of the stages: {0, 1, 4} are two
    worker::backend::KvDType kv_dtype = worker::backend::KvDType::kFloat32;
    int32_t num_blocks = 1;
    int64_t max_logits_bytes = worker::rank::PromptScorer::kMaxLogitsBytes;
    Connect connect;  // null = in this process
  };
  static absl::StatusOr<std::unique_ptr<RankGroup>> Create(const Options& options);

  // By sequence and the position of the token whose logits they are.
  using Logits = std::map<std::pair<SequenceId, int64_t>, std::vector<float>>;
  struct Outcome {
    std::vector<worker::StepResult> results;  // of the rank that has the logits, one a plan
    Logits logits;
  };
  // Every rank executes the plans in order, at its own pace. A rank that fails aborts its
  // communicators. The error of the rank that failed by itself, rather than of its peers.
  absl::StatusOr<Outcome> Run(const std::vector<worker::StepPlan>& plans);

  // What became of each rank in the last Run.
  const std::vector<absl::Status>& rank_status() const { return rank_status_; }
  // Stops a rank between two layers, from now on.
  void Stop(int rank) { ranks_[static_cast<size_t>(rank)].stop = true; }

  const ModelConfig& config() const { return config_; }
  int size() const { return static_cast<int>(ranks_.size()); }
  int64_t weight_bytes(int rank) const { return ranks_[static_cast<size_t>(rank)].weight_bytes; }

 private:
  struct Rank {
    std::atomic<bool> stop = false;
    std::unique_ptr<worker::backend::Backend> backend;
    std::unique_ptr<Communicator> tensor;  // null with one tensor-parallel rank
    std::unique_ptr<Communicator> pipeline;
    std::unique_ptr<worker::rank::ShardCommunicator> sums;
    std::unique_ptr<worker::rank::PipelineStage> stage;
    std::unique_ptr<worker::rank::Sampler> sampler;
    std::unique_ptr<worker::rank::PromptScorer> scorer;
    std::unique_ptr<worker::rank::Executor> executor;
    int64_t weight_bytes = 0;
  };

  explicit RankGroup(size_t num_ranks) : ranks_(num_ranks) {}
  absl::Status Load(const Options& options, const Connect& connect, int number);
  absl::Status Execute(const std::vector<worker::StepPlan>& plans, Rank& rank);
  // Runs `work` for each rank on a thread of its own; the error that caused the others.
  absl::Status OnEveryRank(const std::function<absl::Status(int rank)>& work);

  const SystemClock clock_;
  ModelConfig config_;
  std::vector<Rank> ranks_;
  std::vector<absl::Status> rank_status_;
  Outcome outcome_;  // written by the rank that has the logits
};

}  // namespace longhaul::testing
