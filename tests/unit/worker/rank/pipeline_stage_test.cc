#include "worker/rank/pipeline_stage.h"

#include <atomic>
#include <cstring>
#include <thread>

#include "common/clock.h"
#include "tests/testing/golden.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"
#include "worker/backend/cpu_backend.h"
#include "worker/comm/local_communicator.h"
#include "worker/model/checkpoint.h"
#include "worker/model/weights.h"
#include "worker/rank/executor.h"

namespace longhaul::worker::rank {
namespace {

using ::longhaul::testing::SplitMixTokens;
using ::longhaul::testing::TempDir;
using ::longhaul::testing::TinyModel;

// A tiny model whose layers are spread over stages, one thread each.
class Pipeline {
 public:
  // Bounds of the stages' layers: {0, 1, 3} are two stages.
  explicit Pipeline(const std::vector<int32_t>& bounds)
      : communicators_(comm::MakeLocalGroup(static_cast<int>(bounds.size()) - 1)) {
    const TempDir folder;
    const TinyModel tiny;
    tiny.Write(folder.path());
    const auto checkpoint = model::Checkpoint::Open(folder.path());
    CHECK(checkpoint.ok()) << checkpoint.status();
    const ModelConfig config = tiny.Config();
    for (size_t i = 0; i + 1 < bounds.size(); ++i) {
      Rank& rank = ranks_.emplace_back();
      rank.backend = backend::MakeCpuBackend(1);
      const model::WeightRange range{.layer_begin = bounds[i], .layer_end = bounds[i + 1]};
      auto weights = model::LoadWeights(config, *checkpoint, range, *rank.backend);
      auto cache = KvCache::Create(*rank.backend, {.num_kv_heads = 1, .head_dim = 64},
                                   bounds[i + 1] - bounds[i], 8);
      CHECK(weights.ok() && cache.ok());
      rank.stage = std::make_unique<PipelineStage>(
          std::make_unique<model::Qwen2>(config, model::AttentionOptions{}, *std::move(weights),
                                         *rank.backend),
          *std::move(cache), StageLink(*communicators_[i], *rank.backend));
      if (rank.stage->is_last()) {
        rank.scorer = std::make_unique<PromptScorer>(*rank.stage, *rank.backend);
        rank.sampler = std::make_unique<Sampler>(config.vocab_size, *rank.backend);
        rank.sampler->set_logits_observer([this](SequenceId, int64_t, std::span<const float> row) {
          logits_.assign(row.begin(), row.end());
        });
      }
      rank.executor =
          std::make_unique<Executor>(*rank.stage, rank.sampler.get(), rank.scorer.get(), clock_);
    }
  }

  // What the last rank told of the prompt.
  const std::vector<float>& logprobs() const { return logprobs_; }

  // Every rank executes the same plans; the logits that the last one saw last.
  std::vector<float> Run(const std::vector<StepPlan>& plans) {
    std::vector<std::thread> threads;
    for (Rank& rank : ranks_) {
      threads.emplace_back([&] {
        const std::atomic<bool> stop = false;
        for (const StepPlan& plan : plans) {
          const auto result = rank.executor->Execute(plan, stop);
          EXPECT_OK(result);
          if (!result.ok()) return;
          EXPECT_TRUE(rank.stage->is_last() || result->prompt_logprobs.empty());
          for (const SequencePromptLogprobs& part : result->prompt_logprobs) {
            for (const GeneratedToken& token : part.tokens) logprobs_.push_back(*token.logprob);
          }
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    return logits_;
  }

 private:
  struct Rank {
    std::unique_ptr<backend::Backend> backend;
    std::unique_ptr<PipelineStage> stage;
    std::unique_ptr<Sampler> sampler;
    std::unique_ptr<PromptScorer> scorer;
    std::unique_ptr<Executor> executor;
  };
  const SystemClock clock_;
  std::vector<std::unique_ptr<comm::Communicator>> communicators_;
  std::vector<Rank> ranks_;
  std::vector<float> logits_;
  std::vector<float> logprobs_;
};

Slice Part(int64_t begin, int64_t end, std::vector<BlockId> blocks, int32_t entry, bool sample) {
  const auto ids = SplitMixTokens(3, end, 300);
  return {.sequence_id = 1,
          .begin = begin,
          .token_ids = {ids.begin() + begin, ids.end()},
          .new_block_ids = std::move(blocks),
          .first_table_entry = entry,
          .sample = sample};
}

// 1,200 tokens in two chunks, the first cut between layers, then one more token.
std::vector<StepPlan> Plans() {
  Slice first = Part(0, 700, {4, 1, 7}, 0, false);
  first.next_prompt_token = SplitMixTokens(3, 701, 300)[700];
  const Slice second = Part(700, 1200, {2, 0}, 3, true);
  const Slice third = Part(1200, 1201, {}, 5, true);
  return {{.step_id = 1,
           .starts = {{.sequence_id = 1,
                       .sampling = {.temperature = 0, .prompt_logprobs = 0},
                       .prompt_tokens = 1200}},
           .units = {{.layer_begin = 0, .layer_end = 2, .slices = {first}}}},
          {.step_id = 2, .units = {{.layer_begin = 2, .layer_end = 3, .slices = {first}}}},
          {.step_id = 3, .units = {{.layer_begin = 0, .layer_end = 3, .slices = {second}}}},
          {.step_id = 4,
           .units = {{.layer_begin = 0, .layer_end = 3, .slices = {third}}},
           .ends = {1}}};
}

TEST(PipelineStage, AnySplitIntoStagesGivesTheSameBits) {
  Pipeline one_stage({0, 3});
  const std::vector<float> one = one_stage.Run(Plans());
  ASSERT_EQ(one.size(), 300u);
  ASSERT_EQ(one_stage.logprobs().size(), 1199u);
  for (const std::vector<int32_t>& bounds :
       {std::vector<int32_t>{0, 1, 3}, {0, 2, 3}, {0, 1, 2, 3}}) {
    Pipeline stages(bounds);
    EXPECT_EQ(stages.Run(Plans()), one) << bounds.size() - 1 << " stages";
    EXPECT_EQ(stages.logprobs(), one_stage.logprobs()) << bounds.size() - 1 << " stages";
  }
}

// As many tokens of two sequences as there are of one.
Slice Whole(SequenceId sequence, std::vector<BlockId> blocks) {
  return {.sequence_id = sequence,
          .token_ids = SplitMixTokens(sequence, 300, 300),
          .new_block_ids = std::move(blocks),
          .sample = true};
}

// A unit is cut at `layer`; another runs from end to end before it goes on, or is dropped.
std::vector<StepPlan> AroundACut(int32_t layer, bool goes_on) {
  const Slice first = Whole(1, {4, 1});
  const Slice second = Whole(2, {7, 2});
  const SamplingParams greedy{.temperature = 0};
  std::vector<StepPlan> plans = {
      {.step_id = 1,
       .starts = {{.sequence_id = 1, .sampling = greedy, .prompt_tokens = 300},
                  {.sequence_id = 2, .sampling = greedy, .prompt_tokens = 300}},
       .units = {{.layer_begin = 0, .layer_end = layer, .slices = {first}}}}};
  if (!goes_on) plans.back().ends = {1};
  plans.push_back(
      {.step_id = 2, .units = {{.layer_begin = 0, .layer_end = 3, .slices = {second}}}});
  if (goes_on) {
    plans.push_back(
        {.step_id = 3, .units = {{.layer_begin = layer, .layer_end = 3, .slices = {first}}}});
  }
  return plans;
}

TEST(PipelineStage, AUnitCutAtABorderCrossesItWhenItGoesOn) {
  for (const bool goes_on : {true, false}) {
    for (const int32_t cut : {1, 2}) {
      const std::vector<float> one = Pipeline({0, 3}).Run(AroundACut(cut, goes_on));
      ASSERT_EQ(one.size(), 300u);
      for (const std::vector<int32_t>& bounds :
           {std::vector<int32_t>{0, 1, 3}, {0, 2, 3}, {0, 1, 2, 3}}) {
        EXPECT_EQ(Pipeline(bounds).Run(AroundACut(cut, goes_on)), one)
            << bounds.size() - 1 << " stages, cut at " << cut << ", goes on: " << goes_on;
      }
    }
  }
}

}  // namespace
}  // namespace longhaul::worker::rank
