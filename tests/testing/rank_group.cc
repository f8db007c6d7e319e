#include "tests/testing/rank_group.h"

#include <algorithm>
#include <cstring>
#include <thread>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "tests/testing/poisoning_backend.h"
#include "worker/backend/cpu_backend.h"
#include "worker/comm/local_communicator.h"
#include "worker/model/checkpoint.h"
#include "worker/model/weights.h"
#include "worker/rank/kv_cache.h"

namespace longhaul::testing {
namespace {

using worker::comm::Communicator;

// The communicators of a group in this process, by name. Made before the ranks' threads begin.
class LocalGroups {
 public:
  void Make(const std::string& name, int size) {
    groups_[name] = worker::comm::MakeLocalGroup(size);
  }
  std::unique_ptr<Communicator> Take(const std::string& name, int rank) {
    return std::move(groups_.at(name).at(static_cast<size_t>(rank)));
  }

 private:
  std::map<std::string, std::vector<std::unique_ptr<Communicator>>> groups_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<RankGroup>> RankGroup::Create(const Options& options) {
  const int tensor = options.tensor_parallel_size;
  const int stages = static_cast<int>(options.layer_bounds.size()) - 1;
  std::unique_ptr<RankGroup> group(new RankGroup(static_cast<size_t>(tensor) * stages));
  ASSIGN_OR_RETURN(group->config_, ModelConfig::Load(options.model_dir));
  Connect connect = options.connect;
  if (!connect) {
    auto local = std::make_shared<LocalGroups>();
    for (int stage = 0; stage < stages; ++stage) local->Make(absl::StrCat("tensor", stage), tensor);
    for (int shard = 0; shard < tensor; ++shard) {
      local->Make(absl::StrCat("pipeline", shard), stages);
    }
    connect = [local](const std::string& name, int rank, int) { return local->Take(name, rank); };
  }
  RETURN_IF_ERROR(
      group->OnEveryRank([&](int number) { return group->Load(options, connect, number); }));
  return group;
}

absl::Status RankGroup::Load(const Options& options, const Connect& connect, int number) {
  Rank& rank = ranks_[static_cast<size_t>(number)];
  const int32_t shards = options.tensor_parallel_size;
  const int32_t shard = number % shards;
  const int32_t stage = number / shards;
  const worker::model::WeightRange range{
      .layer_begin = options.layer_bounds[static_cast<size_t>(stage)],
      .layer_end = options.layer_bounds[static_cast<size_t>(stage) + 1],
      .tensor_parallel_rank = shard,
      .tensor_parallel_size = shards};
  rank.backend = std::make_unique<PoisoningBackend>(worker::backend::MakeCpuBackend(1));
  if (shards > 1) {
    ASSIGN_OR_RETURN(rank.tensor, connect(absl::StrCat("tensor", stage), shard, shards));
    rank.sums = std::make_unique<worker::rank::ShardCommunicator>(*rank.tensor, *rank.backend);
  }
  ASSIGN_OR_RETURN(rank.pipeline, connect(absl::StrCat("pipeline", shard), stage,
                                          static_cast<int>(options.layer_bounds.size()) - 1));
  ASSIGN_OR_RETURN(const auto checkpoint, worker::model::Checkpoint::Open(options.model_dir));
  ASSIGN_OR_RETURN(auto weights,
                   worker::model::LoadWeights(config_, checkpoint, range, *rank.backend));
  rank.weight_bytes = weights.bytes;
  ASSIGN_OR_RETURN(auto cache, worker::rank::KvCache::Create(
                                   *rank.backend,
                                   {.num_kv_heads = config_.num_kv_heads / shards,
                                    .head_dim = config_.head_dim,
                                    .dtype = options.kv_dtype},
                                   range.layer_end - range.layer_begin, options.num_blocks));
  const std::vector<uint16_t> nan(static_cast<size_t>(cache.bytes() / 2), 0xffff);  // in any type
  RETURN_IF_ERROR(rank.backend->CopyToDevice(
      nan.data(), {cache.Layer(0).base, worker::DType::kBFloat16, 1, cache.bytes() / 2}));
  rank.stage = std::make_unique<worker::rank::PipelineStage>(
      std::make_unique<worker::model::Qwen2>(config_, worker::model::AttentionOptions{},
                                             std::move(weights), *rank.backend, rank.sums.get()),
      std::move(cache), worker::rank::StageLink(*rank.pipeline, *rank.backend));
  if (rank.stage->is_last()) {
    rank.scorer = std::make_unique<worker::rank::PromptScorer>(*rank.stage, *rank.backend,
                                                               options.max_logits_bytes);
  }
  if (rank.stage->has_logits()) {
    rank.sampler = std::make_unique<worker::rank::Sampler>(config_.vocab_size, *rank.backend);
    rank.sampler->set_logits_observer(
        [this](SequenceId sequence, int64_t position, std::span<const float> logits) {
          outcome_.logits[{sequence, position}].assign(logits.begin(), logits.end());
        });
  }
  rank.executor = std::make_unique<worker::rank::Executor>(*rank.stage, rank.sampler.get(),
                                                           rank.scorer.get(), clock_);
  return absl::OkStatus();
}

absl::StatusOr<RankGroup::Outcome> RankGroup::Run(const std::vector<worker::StepPlan>& plans) {
  outcome_ = {};
  RETURN_IF_ERROR(OnEveryRank([&](int number) {
    Rank& rank = ranks_[static_cast<size_t>(number)];
    const absl::Status status = Execute(plans, rank);
    if (!status.ok()) {
      if (rank.tensor != nullptr) rank.tensor->Abort();
      rank.pipeline->Abort();
    }
    return status;
  }));
  return std::move(outcome_);
}

absl::Status RankGroup::Execute(const std::vector<worker::StepPlan>& plans, Rank& rank) {
  for (const worker::StepPlan& plan : plans) {
    ASSIGN_OR_RETURN(worker::StepResult result, rank.executor->Execute(plan, rank.stop));
    if (rank.stage->has_logits()) {
      outcome_.results.push_back(std::move(result));
    } else if (!result.sampled.empty() || !result.errors.empty() ||
               !result.prompt_logprobs.empty()) {
      return absl::InternalError("a rank without logits told a result");
    }
  }
  return absl::OkStatus();
}

absl::Status RankGroup::OnEveryRank(const std::function<absl::Status(int rank)>& work) {
  rank_status_.assign(ranks_.size(), absl::OkStatus());
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size(); ++rank) {
    threads.emplace_back(
        [this, &work, rank] { rank_status_[static_cast<size_t>(rank)] = work(rank); });
  }
  for (std::thread& thread : threads) thread.join();
  const auto own = std::ranges::find_if(rank_status_, [](const absl::Status& status) {
    return !status.ok() && !absl::IsUnavailable(status);
  });
  if (own != rank_status_.end()) return *own;
  const auto any = std::ranges::find_if(rank_status_, [](const auto& s) { return !s.ok(); });
  return any == rank_status_.end() ? absl::OkStatus() : *any;
}

}  // namespace longhaul::testing
