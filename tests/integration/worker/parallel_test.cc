// Tensor- and pipeline-parallel ranks against one rank: the same logits, bit for bit, however many
// stages there are and however prompts are cut; with more shards, within the table and with the
// same greedy tokens.
#include <algorithm>
#include <csignal>
#include <functional>
#include <iostream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "tests/testing/golden.h"
#include "tests/testing/kernel_testing.h"
#include "tests/testing/memory_rendezvous.h"
#include "tests/testing/model_runner.h"
#include "tests/testing/paths.h"
#include "tests/testing/random_plans.h"
#include "tests/testing/rank_group.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"
#include "worker/comm/gloo_communicator.h"

namespace longhaul::testing {
namespace {

using worker::comm::MakeGlooCommunicator;

constexpr int kOutputTokens = 4;
constexpr int32_t kTopLogprobs = 3;
constexpr int64_t kMaxLogitsBytes = 64 << 10;  // a prompt's rows are scored in tiles of 8 to 54

// What a run told of some sequences.
struct Answers {
  std::map<SequenceId, std::vector<TokenId>> output;
  std::map<SequenceId, std::vector<GeneratedToken>> prompt_logprobs;
  RankGroup::Logits logits;
};

Answers Collect(RankGroup::Outcome outcome) {
  Answers answers;
  for (const worker::StepResult& result : outcome.results) {
    EXPECT_TRUE(result.errors.empty());
    for (const auto& sampled : result.sampled) {
      answers.output[sampled.sequence_id].push_back(sampled.token.token);
    }
    for (const auto& part : result.prompt_logprobs) {
      auto& all = answers.prompt_logprobs[part.sequence_id];
      EXPECT_EQ(part.begin, static_cast<int64_t>(all.size()) + 1);
      all.insert(all.end(), part.tokens.begin(), part.tokens.end());
    }
  }
  answers.logits = std::move(outcome.logits);
  return answers;
}

struct Model {
  std::string name;
  std::string folder;
  int32_t num_layers = 0;
  int32_t num_blocks = 0;  // too few for all of the sequences at once
  std::vector<KnownSequence> sequences;
  // Each sequence alone and its prompt in one go:
  Answers one_rank;    // by ModelRunner, which knows no shards and no stages
  Answers two_shards;  // by one stage of two shards
};

// Whether a token is chosen by so little that another order of sums might choose another.
bool IsNearTie(const std::vector<float>& logits) {
  std::vector<float> best(2);
  std::ranges::partial_sort_copy(logits, best, std::greater<>());
  const Tolerance& tolerance = kTensorParallelLogitsTolerance;
  return best[0] - best[1] < 2 * (tolerance.abs + tolerance.rel * std::abs(best[0]));
}

// Adds a random prompt with its greedy output.
void AddSequence(ModelRunner& runner, int64_t tokens, std::mt19937_64& random, Model& model) {
  KnownSequence sequence{.id = model.sequences.size() + 1,
                         .prompt_tokens = static_cast<int32_t>(tokens)};
  absl::StatusOr<ModelRunner::Output> output;
  do {
    sequence.tokens.clear();
    for (int64_t i = 0; i < tokens; ++i) {
      const int64_t id = Uniform(random, 0, runner.config().vocab_size - 1);
      sequence.tokens.push_back(static_cast<TokenId>(id));
    }
    output = runner.Generate(sequence.tokens, kOutputTokens);
    CHECK(output.ok()) << output.status();
  } while (std::ranges::any_of(output->logits, &IsNearTie));
  model.one_rank.output[sequence.id] = output->tokens;
  for (size_t i = 0; i < output->logits.size(); ++i) {
    model.one_rank.logits[{sequence.id, tokens - 1 + static_cast<int64_t>(i)}] = output->logits[i];
  }
  if (tokens > 1 && sequence.id % 3 == 2) {
    const auto scored = runner.PromptLogprobs(sequence.tokens, kTopLogprobs);
    CHECK(scored.ok()) << scored.status();
    model.one_rank.prompt_logprobs[sequence.id] = *scored;
    sequence.prompt_logprobs = kTopLogprobs;
  }
  sequence.tokens.insert(sequence.tokens.end(), output->tokens.begin(), output->tokens.end() - 1);
  model.sequences.push_back(std::move(sequence));
}

absl::StatusOr<std::unique_ptr<RankGroup>> MakeGroup(const Model& model, int32_t shards,
                                                     std::vector<int32_t> bounds,
                                                     RankGroup::Connect connect = nullptr) {
  return RankGroup::Create({.model_dir = model.folder,
                            .tensor_parallel_size = shards,
                            .layer_bounds = std::move(bounds),
                            .num_blocks = model.num_blocks,
                            .max_logits_bytes = kMaxLogitsBytes,
                            .connect = std::move(connect)});
}

// A negative length is the limit of a random one.
Model MakeModel(std::string name, std::string folder, std::vector<int64_t> lengths) {
  std::mt19937_64 random = FreshRandom();
  Model model{.name = std::move(name), .folder = std::move(folder)};
  for (int64_t& length : lengths) length = length > 0 ? length : Uniform(random, 2, -length);
  std::cout << model.name << ": prompts of " << absl::StrJoin(lengths, ", ") << " tokens\n";
  const int64_t longest = *std::ranges::max_element(lengths) + kOutputTokens;
  auto runner =
      ModelRunner::Create({.model_dir = model.folder, .threads = 1, .max_tokens = longest});
  CHECK(runner.ok()) << runner.status();
  for (const int64_t length : lengths) AddSequence(**runner, length, random, model);
  model.num_layers = (*runner)->config().num_layers;
  model.num_blocks = static_cast<int32_t>((longest + kKvBlockTokens - 1) / kKvBlockTokens) + 3;
  const auto group = MakeGroup(model, 2, {0, model.num_layers});
  CHECK(group.ok()) << group.status();
  auto outcome = (*group)->Run(PlainPlans(model.sequences, model.num_layers, /*first_step=*/1));
  CHECK(outcome.ok()) << outcome.status();
  model.two_shards = Collect(*std::move(outcome));
  return model;
}

// Segments of 512 tokens; 301 tokens are not shared evenly.
const Model& Tiny() {
  static const TempDir folder;
  static const Model model = [] {
    TinyModel{.num_layers = 5, .num_kv_heads = 2, .vocab_size = 301}.Write(folder.path());
    return MakeModel("tiny", folder.path(), {1, 255, 256, 257, 513, -1700, -1700, -600});
  }();
  return model;
}
// Segments of 3,072 tokens; the head is the embedding.
const Model& Demo() {
  static const Model model = MakeModel("demo", SourcePath("models/demo"), {1, 257, -4000, 3100});
  return model;
}

::testing::AssertionResult SameLogits(const RankGroup::Logits& actual,
                                      const RankGroup::Logits& expected) {
  if (actual.size() != expected.size()) {
    return ::testing::AssertionFailure() << actual.size() << " rows, not " << expected.size();
  }
  for (const auto& [key, logits] : expected) {
    const auto found = actual.find(key);
    if (found == actual.end() || found->second.size() != logits.size()) {
      return ::testing::AssertionFailure() << "no logits of position " << key.second;
    }
    const auto same =
        SameBits(found->second.data(), logits.data(), static_cast<int64_t>(logits.size()));
    if (!same) {
      return ::testing::AssertionFailure()
             << "sequence " << key.first << " position " << key.second << ": " << same.message();
    }
  }
  return ::testing::AssertionSuccess();
}

void ExpectNearLogits(const RankGroup::Logits& actual, const RankGroup::Logits& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  double largest = 0;
  for (const auto& [key, logits] : expected) {
    const auto found = actual.find(key);
    ASSERT_NE(found, actual.end());
    EXPECT_TRUE(Near(found->second, logits, kTensorParallelLogitsTolerance))
        << "sequence " << key.first << " position " << key.second;
    largest =
        std::max(largest, MaxAbsDifference(found->second.data(), logits.data(), logits.size()));
  }
  std::cout << "max abs " << largest << "\n";
}

// Logprobs of the prompts' tokens and, from the most probable on, of the others that were told.
std::vector<float> Flat(const std::map<SequenceId, std::vector<GeneratedToken>>& prompts) {
  std::vector<float> logprobs;
  for (const auto& [sequence, tokens] : prompts) {
    for (const GeneratedToken& token : tokens) {
      logprobs.push_back(static_cast<float>(sequence));
      logprobs.push_back(static_cast<float>(token.token));
      logprobs.push_back(*token.logprob);
      for (const TokenLogprob& top : token.top_logprobs) logprobs.push_back(top.logprob);
    }
  }
  return logprobs;
}

struct Shape {
  const Model& (*model)();
  int32_t shards;
  std::vector<int32_t> bounds;
};

class Parallel : public ::testing::TestWithParam<Shape> {};

TEST_P(Parallel, GivesTheLogitsOfOneRankHoweverTheWorkIsCut) {
  const auto& [model_of, shards, bounds] = GetParam();
  const Model& model = model_of();
  std::mt19937_64 random = FreshRandom();
  ASSERT_OK_AND_ASSIGN(const auto group, MakeGroup(model, shards, bounds));
  const auto plans =
      RandomPlans(model.sequences, model.num_layers, model.num_blocks, /*first_step=*/1, random);
  ASSERT_OK_AND_ASSIGN(RankGroup::Outcome outcome, group->Run(plans));
  ASSERT_EQ(outcome.results.size(), plans.size());
  const Answers answers = Collect(std::move(outcome));

  const Answers& same = shards == 1 ? model.one_rank : model.two_shards;
  EXPECT_TRUE(SameLogits(answers.logits, same.logits));
  EXPECT_EQ(Flat(answers.prompt_logprobs), Flat(same.prompt_logprobs));
  EXPECT_EQ(answers.output, model.one_rank.output);
  if (shards == 1) return;
  ExpectNearLogits(answers.logits, model.one_rank.logits);
  EXPECT_TRUE(Near(Flat(answers.prompt_logprobs), Flat(model.one_rank.prompt_logprobs),
                   kTensorParallelLogitsTolerance));
}

std::vector<Shape> Shapes() {
  std::vector<Shape> shapes;
  for (const int32_t shards : {1, 2}) {
    for (const std::vector<int32_t>& bounds :
         {std::vector<int32_t>{0, 5}, {0, 2, 5}, {0, 4, 5}, {0, 1, 3, 4, 5}}) {
      shapes.push_back({&Tiny, shards, bounds});
    }
    for (const std::vector<int32_t>& bounds :
         {std::vector<int32_t>{0, 4}, {0, 1, 4}, {0, 1, 2, 3, 4}}) {
      shapes.push_back({&Demo, shards, bounds});
    }
  }
  return shapes;
}
INSTANTIATE_TEST_SUITE_P(Shapes, Parallel, ::testing::ValuesIn(Shapes()), [](const auto& test) {
  const Shape& shape = test.param;
  return absl::StrCat(shape.model == &Tiny ? "tiny" : "demo", "_T", shape.shards, "_layers_",
                      absl::StrJoin(shape.bounds, "_"));
});

TEST(ParallelRanks, FourShardsAndATiedHead) {
  const TempDir folder;
  TinyModel{.tied = true, .num_kv_heads = 4, .vocab_size = 303}.Write(folder.path());
  const Model model = MakeModel("four shards", folder.path(), {700, -300});
  for (const std::vector<int32_t>& bounds : {std::vector<int32_t>{0, 3}, {0, 1, 3}}) {
    ASSERT_OK_AND_ASSIGN(const auto group, MakeGroup(model, 4, bounds));
    ASSERT_OK_AND_ASSIGN(RankGroup::Outcome outcome,
                         group->Run(PlainPlans(model.sequences, model.num_layers, 1)));
    const Answers answers = Collect(std::move(outcome));
    EXPECT_EQ(answers.output, model.one_rank.output);
    ExpectNearLogits(answers.logits, model.one_rank.logits);
  }
}

// The golden prompts of Hugging Face transformers of up to 1,000 tokens: 43, many in a unit.
TEST(ParallelRanks, ContinueTheGoldenPromptsAsTransformersDoes) {
  const Golden golden("golden_logits.safetensors");
  const std::vector<int32_t> offsets = golden.Ints("offsets");
  const std::vector<int32_t> prompt_ids = golden.Ints("prompt_ids");
  const std::vector<int32_t> greedy_ids = golden.Ints("greedy_ids");
  const size_t num_prompts = offsets.size() - 1;
  const size_t num_steps = greedy_ids.size() / num_prompts;
  Model model{.folder = SourcePath("models/demo"), .num_layers = 4};
  std::map<SequenceId, std::vector<TokenId>> greedy;
  for (size_t i = 0; i < num_prompts; ++i) {
    if (offsets[i + 1] - offsets[i] > 1000) continue;
    const std::vector<TokenId> output(greedy_ids.begin() + i * num_steps,
                                      greedy_ids.begin() + (i + 1) * num_steps);
    KnownSequence sequence{
        .id = i + 1,
        .tokens = {prompt_ids.begin() + offsets[i], prompt_ids.begin() + offsets[i + 1]},
        .prompt_tokens = offsets[i + 1] - offsets[i]};
    sequence.tokens.insert(sequence.tokens.end(), output.begin(), output.end() - 1);
    model.num_blocks +=
        static_cast<int32_t>(sequence.tokens.size() + kKvBlockTokens - 1) / kKvBlockTokens;
    greedy[sequence.id] = output;
    model.sequences.push_back(std::move(sequence));
  }
  ASSERT_EQ(greedy.size(), 43u);
  std::mt19937_64 random = FreshRandom();
  ASSERT_OK_AND_ASSIGN(const auto group, MakeGroup(model, 2, {0, 2, 4}));
  const auto plans =
      RandomPlans(model.sequences, model.num_layers, model.num_blocks, /*first_step=*/1, random);
  ASSERT_OK_AND_ASSIGN(RankGroup::Outcome outcome, group->Run(plans));
  EXPECT_EQ(Collect(std::move(outcome)).output, greedy);
}

// Ranks that are threads, over TCP.
RankGroup::Connect OverGloo(MemoryRendezvous& store) {
  signal(SIGPIPE, SIG_IGN);
  return [&store](const std::string& name, int rank, int size) {
    return MakeGlooCommunicator({.rank = rank, .size = size, .group = name}, store);
  };
}

TEST(ParallelRanks, GiveTheSameBitsOverGloo) {
  const Model& model = Tiny();
  std::mt19937_64 random = FreshRandom();
  MemoryRendezvous store;
  ASSERT_OK_AND_ASSIGN(const auto group, MakeGroup(model, 2, {0, 2, 5}, OverGloo(store)));
  ASSERT_OK_AND_ASSIGN(RankGroup::Outcome outcome,
                       group->Run(RandomPlans(model.sequences, model.num_layers, model.num_blocks,
                                              /*first_step=*/1, random)));
  const Answers answers = Collect(std::move(outcome));
  EXPECT_TRUE(SameLogits(answers.logits, model.two_shards.logits));
  EXPECT_EQ(Flat(answers.prompt_logprobs), Flat(model.two_shards.prompt_logprobs));
}

// A rank that stops aborts its communicators: its peers end too, long before any timeout.
void ExpectAllRanksEnd(RankGroup::Connect connect) {
  const Model& model = Tiny();
  std::mt19937_64 random = FreshRandom();
  ASSERT_OK_AND_ASSIGN(const auto group, MakeGroup(model, 2, {0, 2, 5}, std::move(connect)));
  const int stopped = static_cast<int>(Uniform(random, 0, 3));
  const absl::Duration delay = absl::Milliseconds(Uniform(random, 0, 20));
  const auto plans =
      RandomPlans(model.sequences, model.num_layers, model.num_blocks, /*first_step=*/1, random);
  std::thread stopper([&] {
    absl::SleepFor(delay);
    group->Stop(stopped);
  });
  const absl::Time begin = absl::Now();
  const auto outcome = group->Run(plans);
  stopper.join();
  EXPECT_LT(absl::Now() - begin, absl::Seconds(10));
  EXPECT_THAT(outcome.status(), StatusIs(absl::StatusCode::kCancelled, ::testing::_));
  for (int rank = 0; rank < group->size(); ++rank) {
    EXPECT_EQ(group->rank_status()[static_cast<size_t>(rank)].code(),
              rank == stopped ? absl::StatusCode::kCancelled : absl::StatusCode::kUnavailable)
        << "rank " << rank << ": " << group->rank_status()[static_cast<size_t>(rank)];
  }
}
TEST(ParallelRanks, EndWhenOneOfThemStops) { ExpectAllRanksEnd(nullptr); }
TEST(ParallelRanks, EndWhenOneOfThemStopsOverGloo) {
  MemoryRendezvous store;
  ExpectAllRanksEnd(OverGloo(store));
}

TEST(ParallelRanks, AllRefuseAPlanThatBreaksTheRules) {
  const Model& model = Tiny();
  ASSERT_OK_AND_ASSIGN(const auto group, MakeGroup(model, 2, {0, 2, 5}));
  auto plans = PlainPlans(model.sequences, model.num_layers, /*first_step=*/1);
  plans.resize(3);
  plans.back().units.front().slices.front().begin += 1;
  EXPECT_THAT(group->Run(plans).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, ::testing::_));
  for (const absl::Status& status : group->rank_status()) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  }
}

}  // namespace
}  // namespace longhaul::testing
