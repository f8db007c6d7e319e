#include "worker/rank/executor.h"

#include <atomic>
#include <cstring>
#include <functional>
#include <numeric>

#include "common/clock.h"
#include "tests/testing/golden.h"
#include "tests/testing/model_runner.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace longhaul::worker::rank {
namespace {

using ::longhaul::testing::ModelRunner;
using ::longhaul::testing::SplitMixTokens;
using ::longhaul::testing::StatusIs;
using ::longhaul::testing::TempDir;
using ::longhaul::testing::TinyModel;
using ::testing::HasSubstr;

constexpr auto kDevice = KvMove::Tier::kDevice;
constexpr auto kHost = KvMove::Tier::kHost;
constexpr auto kDisk = KvMove::Tier::kDisk;

// A runner's executor, driven by hand-made plans. The cache has 8 blocks, with 4 slots in memory
// and 4 on disk; the model 3 layers, 300 tokens.
class ExecutorTest : public ::testing::Test {
 protected:
  ExecutorTest() {
    TinyModel{}.Write(folder_.path());
    StartRunner();
  }
  void StartRunner() {
    runner_.reset();
    auto runner = ModelRunner::Create({.model_dir = folder_.path(),
                                       .threads = 1,
                                       .max_tokens = 8 * kKvBlockTokens,
                                       .host_slots = 4,
                                       .disk_slots = 4,
                                       .disk_path = folder_.path() + "/rank0.kv"});
    CHECK(runner.ok()) << runner.status();
    runner_ = *std::move(runner);
    last_step_ = 0;
  }

  static SequenceStart Starting(SequenceId id, int32_t prompt_tokens) {
    return {.sequence_id = id, .sampling = {.temperature = 0}, .prompt_tokens = prompt_tokens};
  }
  // Sequence `id` owns blocks from `block` on; ids differ with sequence and position.
  static Slice Part(SequenceId id, int64_t begin, int64_t count, BlockId block, bool sample) {
    const auto ids = SplitMixTokens(id, begin + count, 300);
    const int64_t first = (begin + 255) / 256;
    std::vector<BlockId> blocks((begin + count + 255) / 256 - first);
    std::iota(blocks.begin(), blocks.end(), block + static_cast<BlockId>(first));
    return {.sequence_id = id,
            .begin = begin,
            .token_ids = {ids.begin() + begin, ids.end()},
            .new_block_ids = blocks,
            .first_table_entry = static_cast<int32_t>(first),
            .sample = sample};
  }
  static Unit All(std::vector<Slice> slices, int32_t layer_begin = 0, int32_t layer_end = 3) {
    return {.layer_begin = layer_begin, .layer_end = layer_end, .slices = std::move(slices)};
  }

  absl::StatusOr<StepResult> Execute(StepPlan plan) {
    plan.step_id = ++last_step_;
    return runner_->executor().Execute(plan, stop_);
  }
  // The one token that a plan samples; -1 if it is not one.
  TokenId Token(StepPlan plan) {
    const auto result = Execute(std::move(plan));
    EXPECT_OK(result);
    if (!result.ok() || result->sampled.size() != 1) return -1;
    return result->sampled[0].token.token;
  }

  // All KV on the device becomes NaN.
  void Poison() {
    for (BlockId id = 0; id < 8; ++id) {
      const TensorView block = runner_->cache().Block(id);
      std::memset(block.data, 0xFF, static_cast<size_t>(block.bytes()));
    }
  }

  const TempDir folder_;
  std::unique_ptr<ModelRunner> runner_;
  std::atomic<bool> stop_ = false;
  StepId last_step_ = 0;
};

TEST_F(ExecutorTest, SequencesOfOneUnitDoNotTouchEachOther) {
  const TokenId alone1 = Token(
      {.starts = {Starting(1, 300)}, .units = {All({Part(1, 0, 300, 0, true)})}, .ends = {1}});
  const TokenId alone2 =
      Token({.starts = {Starting(2, 40)}, .units = {All({Part(2, 0, 40, 3, true)})}, .ends = {2}});
  ASSERT_OK_AND_ASSIGN(const StepResult both,
                       Execute({.starts = {Starting(1, 300), Starting(2, 40)},
                                .units = {All({Part(1, 0, 300, 4, true), Part(2, 0, 40, 0, true)})},
                                .ends = {1, 2}}));
  ASSERT_EQ(both.sampled.size(), 2u);
  EXPECT_EQ(both.sampled[0].token.token, alone1);
  EXPECT_EQ(both.sampled[1].token.token, alone2);
  EXPECT_EQ(runner_->executor().num_sequences(), 0u);
}

TEST_F(ExecutorTest, ShortUnitsRunWhileALongOneIsCut) {
  const TokenId alone1 = Token(
      {.starts = {Starting(1, 700)}, .units = {All({Part(1, 0, 700, 0, true)})}, .ends = {1}});
  const TokenId alone2 =
      Token({.starts = {Starting(2, 40)}, .units = {All({Part(2, 0, 40, 3, true)})}, .ends = {2}});
  ASSERT_OK(
      Execute({.starts = {Starting(1, 700)}, .units = {All({Part(1, 0, 700, 0, true)}, 0, 1)}}));
  EXPECT_EQ(Token({.starts = {Starting(2, 40)}, .units = {All({Part(2, 0, 40, 3, true)})}}),
            alone2);
  ASSERT_OK(Execute({.units = {All({Part(1, 0, 700, 0, true)}, 1, 2)}}));
  EXPECT_EQ(Token({.units = {All({Part(1, 0, 700, 0, true)}, 2, 3)}}), alone1);
}

TEST_F(ExecutorTest, ACachedPrefixGivesTheSameToken) {
  const TokenId whole =
      Token({.starts = {Starting(1, 600)}, .units = {All({Part(1, 0, 600, 0, true)})}});
  // Sequence 1's first two blocks serve as another's prefix: same tokens, blocks named again.
  SequenceStart start = Starting(2, 600);
  start.cached_prompt_ids = SplitMixTokens(1, 512, 300);
  Slice rest = Part(1, 512, 88, 3, true);
  rest.sequence_id = 2;
  rest.first_table_entry = 0;
  rest.new_block_ids = {0, 1, 5};
  EXPECT_EQ(Token({.starts = {start}, .units = {All({rest})}}), whole);
}

// As after a preemption: the prompt and the first output's KV are there, the rest is run again.
TEST_F(ExecutorTest, ACachedOutputGivesTheSameToken) {
  const TokenId whole =
      Token({.starts = {Starting(1, 600)}, .units = {All({Part(1, 0, 600, 0, true)})}});
  SequenceStart start = Starting(2, 500);
  start.cached_prompt_ids = SplitMixTokens(1, 500, 300);
  const std::vector<TokenId> ids = SplitMixTokens(1, 600, 300);
  start.replayed_output_ids = {ids.begin() + 500, ids.end()};
  start.cached_output_tokens = 12;  // two blocks
  Slice rest = Part(1, 512, 88, 3, true);
  rest.sequence_id = 2;
  rest.first_table_entry = 0;
  rest.new_block_ids = {0, 1, 5};
  EXPECT_EQ(Token({.starts = {start}, .units = {All({rest})}}), whole);
}

TEST_F(ExecutorTest, ASequenceGoesOnBitForBitAfterItsBlocksWereElsewhere) {
  const StepPlan first = {.starts = {Starting(1, 700)},
                          .units = {All({Part(1, 0, 600, 0, false)})}};
  const StepPlan last = {.units = {All({Part(1, 600, 100, 0, true)})}, .ends = {1}};
  ASSERT_OK(Execute(first));
  ASSERT_OK(Execute(last));

  ASSERT_OK(Execute(first));
  ASSERT_OK(Execute({.moves = {{kDevice, 0, kHost, 3},
                               {kDevice, 1, kDisk, 2},
                               {kDevice, 2, kHost, 0},
                               {kHost, 0, kDisk, 3}}}));
  Poison();
  ASSERT_OK(Execute({.moves = {{kDisk, 2, kHost, 1}}}));
  // Everything comes back in the plan that needs it.
  StepPlan back = last;
  back.moves = {{kHost, 3, kDevice, 0}, {kHost, 1, kDevice, 1}, {kDisk, 3, kDevice, 2}};
  ASSERT_OK_AND_ASSIGN(const StepResult result, Execute(back));
  EXPECT_TRUE(result.failed_moves.empty());
  ASSERT_EQ(runner_->logits().size(), 2u);
  EXPECT_EQ(runner_->logits()[0], runner_->logits()[1]);
}

TEST_F(ExecutorTest, APrefixThatWasElsewhereServesAnotherSequenceInOtherBlocks) {
  ASSERT_OK(Execute(
      {.starts = {Starting(1, 700)}, .units = {All({Part(1, 0, 700, 0, true)})}, .ends = {1}}));
  ASSERT_OK(Execute({.moves = {{kDevice, 0, kDisk, 0}, {kDevice, 1, kHost, 0}}}));
  Poison();
  SequenceStart start = Starting(2, 700);
  start.cached_prompt_ids = SplitMixTokens(1, 512, 300);
  Slice rest = Part(1, 512, 188, 0, true);
  rest.sequence_id = 2;
  rest.first_table_entry = 0;
  rest.new_block_ids = {6, 7, 3};
  // Restored before the start, and in order: block 6 holds block 1's content for a while.
  ASSERT_OK(Execute({.moves = {{kHost, 0, kDevice, 6},
                               {kDevice, 6, kHost, 2},
                               {kDisk, 0, kDevice, 6},
                               {kHost, 2, kDevice, 7}},
                     .starts = {start},
                     .units = {All({rest})}}));
  ASSERT_EQ(runner_->logits().size(), 2u);
  EXPECT_EQ(runner_->logits()[0], runner_->logits()[1]);
}

TEST_F(ExecutorTest, MovesThatFailAreReportedAndTheRestIsDone) {
  ASSERT_OK_AND_ASSIGN(const StepResult result,
                       Execute({.moves = {{kHost, 0, kDevice, 7},
                                          {kDevice, 1, kHost, 1},
                                          {kDisk, 0, kDevice, 2},
                                          {kHost, 1, kDisk, 1}},
                                .starts = {Starting(1, 5)},
                                .units = {All({Part(1, 0, 5, 0, true)})}}));
  EXPECT_EQ(result.failed_moves, (std::vector<int32_t>{0, 2}));
  EXPECT_EQ(result.sampled.size(), 1u);
}

TEST_F(ExecutorTest, StopsBetweenLayers) {
  stop_ = true;
  EXPECT_THAT(
      Execute({.starts = {Starting(1, 5)}, .units = {All({Part(1, 0, 5, 0, true)})}}).status(),
      StatusIs(absl::StatusCode::kCancelled, HasSubstr("stops")));
}

TEST_F(ExecutorTest, ADroppedCutUnitLeavesRoomForOthers) {
  for (SequenceId id = 1; id < 20; ++id) {
    ASSERT_OK(Execute({.starts = {Starting(id, 5)},
                       .units = {All({Part(id, 0, 5, 0, true)}, 0, 2)},
                       .ends = {id}}));
  }
}

TEST_F(ExecutorTest, CutUnitsAreBounded) {
  absl::Status status;
  for (SequenceId id = 1; id <= PipelineStage::kMaxResident + 1; ++id) {
    status = Execute({.starts = {Starting(id, 5)},
                      .units = {All({Part(id, 0, 5, static_cast<BlockId>(id), true)}, 0, 2)}})
                 .status();
  }
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("limit 4")));
}

TEST_F(ExecutorTest, RefusesPlansThatBreakTheRules) {
  const auto base = [] {
    return StepPlan{.step_id = 3,
                    .starts = {Starting(2, 20)},
                    .units = {All({Part(2, 0, 20, 2, true)}), All({Part(1, 10, 10, 0, false)})}};
  };
  const struct {
    const char* error;
    std::function<void(StepPlan&)> damage;
  } kCases[] = {
      {"step 4 came after step 2", [](auto& p) { p.step_id = 4; }},
      {"step 2 came after step 2", [](auto& p) { p.step_id = 2; }},
      {"names device 8 of 8",
       [](auto& p) {
         p.moves = {{kHost, 0, kDevice, 8}};
       }},
      {"names host 4 of 4",
       [](auto& p) {
         p.moves = {{kDevice, 0, kDisk, 3}, {kDevice, 0, kHost, 4}};
       }},
      {"names disk 4 of 4",
       [](auto& p) {
         p.moves = {{kDisk, 4, kDevice, 0}};
       }},
      {"stays in tier device",
       [](auto& p) {
         p.moves = {{kDevice, 0, kDevice, 1}};
       }},
      {"running already", [](auto& p) { p.starts[0].sequence_id = 1; }},
      {"prompt of 0 tokens", [](auto& p) { p.starts[0].prompt_tokens = 0; }},
      {"21 of them cached", [](auto& p) { p.starts[0].cached_prompt_ids.resize(21); }},
      {"token 300", [](auto& p) { p.starts[0].cached_prompt_ids = {300}; }},
      {"token -1", [](auto& p) { p.starts[0].replayed_output_ids = {-1}; }},
      {"cached_output_tokens is 1 of 1 replayed ones behind 0 cached",
       [](auto& p) {
         p.starts[0].replayed_output_ids = {5};
         p.starts[0].cached_output_tokens = 1;
       }},
      {"token 300", [](auto& p) { p.starts[0].end_token_ids = {300}; }},
      {"prompt_logprobs with 3 cached",
       [](auto& p) {
         p.starts[0].sampling.prompt_logprobs = 0;
         p.starts[0].cached_prompt_ids = {1, 2, 3};
       }},
      {"of 20 tokens with prompt_logprobs; next_prompt_token is missing",
       [](auto& p) {
         p.starts[0].sampling.prompt_logprobs = 0;
         p.units[0].slices[0] = Part(2, 0, 19, 2, false);
       }},
      {"with prompt_logprobs; next_prompt_token is one too many",
       [](auto& p) {
         p.starts[0].sampling.prompt_logprobs = 0;
         p.units[0].slices[0].next_prompt_token = 1;
       }},
      {"without prompt_logprobs; next_prompt_token is one too many",
       [](auto& p) {
         p.units[0].slices[0] = Part(2, 0, 19, 2, false);
         p.units[0].slices[0].next_prompt_token = 1;
       }},
      {"next_prompt_token holds token 300",
       [](auto& p) {
         p.starts[0].sampling.prompt_logprobs = 0;
         p.units[0].slices[0] = Part(2, 0, 19, 2, false);
         p.units[0].slices[0].next_prompt_token = 300;
       }},
      {"logit_bias",
       [](auto& p) {
         p.starts[0].sampling.logit_bias = {{300, 1.0f}};
       }},
      {"not running", [](auto& p) { p.units[0].slices[0].sequence_id = 9; }},
      {"token 300", [](auto& p) { p.units[0].slices[0].token_ids[4] = 300; }},
      {"block 8 of 8", [](auto& p) { p.units[0].slices[0].new_block_ids = {8}; }},
      {"table entry 1", [](auto& p) { p.units[0].slices[0].first_table_entry = 1; }},
      {"table entry 0",  // another block in its place
       [](auto& p) {
         p.units[1].slices[0].new_block_ids = {6};
         p.units[1].slices[0].first_table_entry = 0;
       }},
      {"has 0 blocks", [](auto& p) { p.units[0].slices[0].new_block_ids = {}; }},
      {"begins at 1", [](auto& p) { p.units[0].slices[0].begin = 1; }},
      {"begins at 11", [](auto& p) { p.units[1].slices[0].begin = 11; }},
      {"model limit 4096", [](auto& p) { p.units[1].slices[0].begin = 4090; }},
      {"two slices", [](auto& p) { p.units[0].slices.push_back(p.units[0].slices[0]); }},
      {"layers [0, 4)", [](auto& p) { p.units[0].layer_end = 4; }},
      {"layers [-1, 3)", [](auto& p) { p.units[0].layer_begin = -1; }},
      {"layers [3, 3)", [](auto& p) { p.units[0].layer_begin = 3; }},
      {"0 slices", [](auto& p) { p.units[0].slices.clear(); }},
      {"goes on at layer 1", [](auto& p) { p.units[0].layer_begin = 1; }},
      {"waits at layer 2",
       [](auto& p) {
         p.units[0].layer_end = 2;
         p.units[1] = p.units[0];
       }},
      {"end of unknown sequence 5", [](auto& p) { p.ends = {5}; }},
      {"end of unknown sequence 2",
       [](auto& p) {
         p.ends = {2, 2};
       }},
  };
  for (const auto& test : kCases) {
    StartRunner();
    ASSERT_OK(Execute({.starts = {Starting(1, 20)}}));
    ASSERT_OK(Execute({.units = {All({Part(1, 0, 10, 0, false)})}}));
    StepPlan plan = base();
    test.damage(plan);
    EXPECT_THAT(runner_->executor().Execute(plan, stop_).status(),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(test.error)));
  }
}

}  // namespace
}  // namespace longhaul::worker::rank
