#include "worker/step_plan_wire.h"

#include <cmath>
#include <functional>
#include <limits>
#include <random>

#include "tests/testing/status_matchers.h"

namespace longhaul::worker {
namespace {

using ::longhaul::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr uint32_t kTooLarge = uint32_t{1} << 31;

StepPlan FullPlan() {
  StepPlan plan;
  plan.step_id = 7;
  SequenceStart start;
  start.sequence_id = 11;
  start.sampling = {.temperature = 0.5f,
                    .top_p = 0.9f,
                    .top_k = 20,
                    .min_p = 0.01f,
                    .repetition_penalty = 1.05f,
                    .presence_penalty = -0.5f,
                    .frequency_penalty = 0.25f,
                    .seed = ~uint64_t{0},
                    .logit_bias = {{3, -100.0f}, {9, 2.5f}},
                    .top_logprobs = 20,
                    .prompt_logprobs = 7};
  start.prompt_tokens = 5;
  start.cached_prompt_ids = {1, 2, 3};
  start.replayed_output_ids = {4};
  start.cached_output_tokens = 1;
  start.end_token_ids = {0, 2047};
  start.min_tokens = 2;
  plan.starts = {start};
  Slice slice;
  slice.sequence_id = 11;
  slice.begin = 3;
  slice.token_ids = {8, 9};
  slice.new_block_ids = {100, 0};
  slice.first_table_entry = 1;
  slice.sample = true;
  slice.next_prompt_token = 55;
  plan.units = {{.unit_id = 5, .layer_begin = 1, .layer_end = 4, .slices = {slice}}};
  plan.ends = {~uint64_t{0}, 2};
  plan.moves = {{KvMove::Tier::kDevice, 7, KvMove::Tier::kHost, 0},
                {KvMove::Tier::kHost, 0, KvMove::Tier::kDisk, INT32_MAX},
                {KvMove::Tier::kDisk, 3, KvMove::Tier::kDevice, 8}};
  return plan;
}

v1::StepPlan FullProto() {
  v1::StepPlan proto;
  ToProto(FullPlan(), &proto);
  return proto;
}

TEST(StepPlanWire, APlanComesBackAsItWas) {
  v1::StepPlan parsed;
  ASSERT_TRUE(parsed.ParseFromString(FullProto().SerializeAsString()));
  ASSERT_OK_AND_ASSIGN(const StepPlan plan, FromProto(parsed));
  EXPECT_EQ(plan.step_id, 7u);
  ASSERT_EQ(plan.starts.size(), 1u);
  const SequenceStart& start = plan.starts[0];
  EXPECT_EQ(start.sequence_id, 11u);
  EXPECT_EQ(start.sampling.temperature, 0.5f);
  EXPECT_EQ(start.sampling.top_p, 0.9f);
  EXPECT_EQ(start.sampling.top_k, 20);
  EXPECT_EQ(start.sampling.min_p, 0.01f);
  EXPECT_EQ(start.sampling.repetition_penalty, 1.05f);
  EXPECT_EQ(start.sampling.presence_penalty, -0.5f);
  EXPECT_EQ(start.sampling.frequency_penalty, 0.25f);
  EXPECT_EQ(start.sampling.seed, ~uint64_t{0});
  EXPECT_THAT(start.sampling.logit_bias, ElementsAre(std::pair(3, -100.0f), std::pair(9, 2.5f)));
  EXPECT_EQ(start.sampling.top_logprobs, 20);
  EXPECT_EQ(start.sampling.prompt_logprobs, 7);
  EXPECT_EQ(start.prompt_tokens, 5);
  EXPECT_THAT(start.cached_prompt_ids, ElementsAre(1, 2, 3));
  EXPECT_THAT(start.replayed_output_ids, ElementsAre(4));
  EXPECT_EQ(start.cached_output_tokens, 1);
  EXPECT_THAT(start.end_token_ids, ElementsAre(0, 2047));
  EXPECT_EQ(start.min_tokens, 2);
  ASSERT_EQ(plan.units.size(), 1u);
  const Unit& unit = plan.units[0];
  EXPECT_EQ(unit.unit_id, 5u);
  EXPECT_EQ(unit.layer_begin, 1);
  EXPECT_EQ(unit.layer_end, 4);
  ASSERT_EQ(unit.slices.size(), 1u);
  EXPECT_EQ(unit.slices[0].sequence_id, 11u);
  EXPECT_EQ(unit.slices[0].begin, 3);
  EXPECT_THAT(unit.slices[0].token_ids, ElementsAre(8, 9));
  EXPECT_THAT(unit.slices[0].new_block_ids, ElementsAre(100, 0));
  EXPECT_EQ(unit.slices[0].first_table_entry, 1);
  EXPECT_TRUE(unit.slices[0].sample);
  EXPECT_EQ(unit.slices[0].next_prompt_token, 55);
  EXPECT_THAT(plan.ends, ElementsAre(~uint64_t{0}, 2u));
  ASSERT_EQ(plan.moves.size(), 3u);
  EXPECT_EQ(plan.moves[0].from, KvMove::Tier::kDevice);
  EXPECT_EQ(plan.moves[0].from_index, 7u);
  EXPECT_EQ(plan.moves[0].to, KvMove::Tier::kHost);
  EXPECT_EQ(plan.moves[0].to_index, 0u);
  EXPECT_EQ(plan.moves[1].from, KvMove::Tier::kHost);
  EXPECT_EQ(plan.moves[1].to, KvMove::Tier::kDisk);
  EXPECT_EQ(plan.moves[1].to_index, kTooLarge - 1);
  EXPECT_EQ(plan.moves[2].from, KvMove::Tier::kDisk);
  EXPECT_EQ(plan.moves[2].to, KvMove::Tier::kDevice);
}

TEST(StepPlanWire, NoLogprobsStaysNoLogprobs) {
  StepPlan plan = FullPlan();
  plan.starts[0].sampling.top_logprobs.reset();
  plan.starts[0].sampling.prompt_logprobs.reset();
  plan.units[0].slices[0].next_prompt_token.reset();
  v1::StepPlan proto;
  ToProto(plan, &proto);
  ASSERT_OK_AND_ASSIGN(const StepPlan back, FromProto(proto));
  EXPECT_FALSE(back.starts[0].sampling.top_logprobs.has_value());
  EXPECT_FALSE(back.starts[0].sampling.prompt_logprobs.has_value());
  EXPECT_FALSE(back.units[0].slices[0].next_prompt_token.has_value());
}

TEST(StepPlanWire, RefusesWhatIsOutOfRangeAndNamesIt) {
  const struct {
    const char* error;
    std::function<void(v1::StepPlan&)> damage;
  } kCases[] = {
      {"sampling is missing", [](auto& p) { p.mutable_starts(0)->clear_sampling(); }},
      {"sampling lacks", [](auto& p) { p.mutable_starts(0)->mutable_sampling()->clear_seed(); }},
      {"temperature",
       [](auto& p) { p.mutable_starts(0)->mutable_sampling()->set_temperature(2.5f); }},
      {"temperature",
       [](auto& p) { p.mutable_starts(0)->mutable_sampling()->set_temperature(kNan); }},
      {"temperature",
       [](auto& p) { p.mutable_starts(0)->mutable_sampling()->set_temperature(-1); }},
      {"top_p", [](auto& p) { p.mutable_starts(0)->mutable_sampling()->set_top_p(0); }},
      {"top_k", [](auto& p) { p.mutable_starts(0)->mutable_sampling()->set_top_k(-2); }},
      {"min_p", [](auto& p) { p.mutable_starts(0)->mutable_sampling()->set_min_p(1.5f); }},
      {"repetition_penalty",
       [](auto& p) { p.mutable_starts(0)->mutable_sampling()->set_repetition_penalty(0); }},
      {"presence_penalty",
       [](auto& p) { p.mutable_starts(0)->mutable_sampling()->set_presence_penalty(3); }},
      {"frequency_penalty",
       [](auto& p) { p.mutable_starts(0)->mutable_sampling()->set_frequency_penalty(kNan); }},
      {"logit_bias",
       [](auto& p) { (*p.mutable_starts(0)->mutable_sampling()->mutable_logit_bias())[1] = 101; }},
      {"logit_bias token",
       [](auto& p) {
         (*p.mutable_starts(0)->mutable_sampling()->mutable_logit_bias())[kTooLarge] = 1;
       }},
      {"top_logprobs", [](auto& p) { p.mutable_starts(0)->set_top_logprobs(21); }},
      {"prompt_logprobs", [](auto& p) { p.mutable_starts(0)->set_prompt_logprobs(21); }},
      {"next_prompt_token",
       [](auto& p) { p.mutable_units(0)->mutable_slices(0)->set_next_prompt_token(kTooLarge); }},
      {"prompt_tokens", [](auto& p) { p.mutable_starts(0)->set_prompt_tokens(0); }},
      {"prompt_tokens", [](auto& p) { p.mutable_starts(0)->set_prompt_tokens(kTooLarge); }},
      {"cached_prompt_ids", [](auto& p) { p.mutable_starts(0)->set_prompt_tokens(2); }},
      {"cached_prompt_ids", [](auto& p) { p.mutable_starts(0)->set_cached_prompt_ids(0, ~0u); }},
      {"replayed_output_ids",
       [](auto& p) { p.mutable_starts(0)->add_replayed_output_ids(kTooLarge); }},
      {"min_tokens", [](auto& p) { p.mutable_starts(0)->set_min_tokens(kTooLarge); }},
      {"layers [4, 4)", [](auto& p) { p.mutable_units(0)->set_layer_begin(4); }},
      {"layer_end", [](auto& p) { p.mutable_units(0)->set_layer_end(kTooLarge); }},
      {"slices is empty", [](auto& p) { p.mutable_units(0)->clear_slices(); }},
      {"token_ids is empty",
       [](auto& p) { p.mutable_units(0)->mutable_slices(0)->clear_token_ids(); }},
      {"token_ids", [](auto& p) { p.mutable_units(0)->mutable_slices(0)->add_token_ids(~0u); }},
      {"new_block_ids",
       [](auto& p) { p.mutable_units(0)->mutable_slices(0)->add_new_block_ids(kTooLarge); }},
      {"first_table_entry",
       [](auto& p) { p.mutable_units(0)->mutable_slices(0)->set_first_table_entry(~0u); }},
      {"begin", [](auto& p) { p.mutable_units(0)->mutable_slices(0)->set_begin(kTooLarge); }},
      {"ends above",
       [](auto& p) { p.mutable_units(0)->mutable_slices(0)->set_begin(kTooLarge - 1); }},
      {"moves[0]: from is tier 0", [](auto& p) { p.mutable_moves(0)->clear_from(); }},
      {"moves[2]: to is tier 0", [](auto& p) { p.mutable_moves(2)->clear_to(); }},
      {"to is tier 9", [](auto& p) { p.mutable_moves(0)->set_to(static_cast<v1::KvTier>(9)); }},
      {"same tier", [](auto& p) { p.mutable_moves(1)->set_to(v1::KV_TIER_HOST); }},
      {"from_index", [](auto& p) { p.mutable_moves(0)->set_from_index(kTooLarge); }},
      {"to_index", [](auto& p) { p.mutable_moves(0)->set_to_index(~0u); }},
      {"moves has",
       [](auto& p) {
         while (p.moves_size() <= kMaxMovesPerStep) p.add_moves();
       }},
      {"starts has",
       [](auto& p) {
         while (p.starts_size() <= kMaxSequencesPerStep) p.add_starts();
       }},
      {"units has",
       [](auto& p) {
         while (p.units_size() <= kMaxUnitsPerStep) p.add_units();
       }},
  };
  for (const auto& test : kCases) {
    v1::StepPlan proto = FullProto();
    test.damage(proto);
    EXPECT_THAT(FromProto(proto).status(),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(test.error)));
  }
}

TEST(StepPlanWire, AGrammarIsNotIgnored) {
  v1::StepPlan proto = FullProto();
  proto.mutable_starts(0)->set_grammar("x");
  EXPECT_TRUE(absl::IsUnimplemented(FromProto(proto).status()));
}

TEST(StepPlanWire, ATopKOfMinusOneIsOff) {
  v1::StepPlan proto = FullProto();
  proto.mutable_starts(0)->mutable_sampling()->set_top_k(-1);
  ASSERT_OK_AND_ASSIGN(const StepPlan plan, FromProto(proto));
  EXPECT_EQ(plan.starts[0].sampling.top_k, 0);
}

TEST(StepPlanWire, AResultComesBackAsItWas) {
  StepResult result;
  result.step_id = 3;
  result.seconds = 0.25;
  result.sampled = {{4, {.token = 17}},
                    {5, {.token = 18, .logprob = -0.5f, .top_logprobs = {{18, -0.5f}, {2, -3}}}}};
  result.errors = {{6, "logits hold NaN"}};
  result.prompt_logprobs = {{.sequence_id = 8,
                             .begin = 257,
                             .tokens = {{.token = 3, .logprob = -2, .top_logprobs = {{9, -1}}},
                                        {.token = 4, .logprob = 0}}}};
  result.failed_moves = {0, 3, kMaxMovesPerStep - 1};
  v1::StepDone proto;
  ToProto(result, &proto);
  ASSERT_OK_AND_ASSIGN(const StepResult back, FromProto(proto));
  EXPECT_EQ(back.step_id, 3u);
  EXPECT_EQ(back.seconds, 0.25);
  ASSERT_EQ(back.sampled.size(), 2u);
  EXPECT_EQ(back.sampled[0].token.token, 17);
  EXPECT_FALSE(back.sampled[0].token.logprob.has_value());
  EXPECT_EQ(back.sampled[1].sequence_id, 5u);
  EXPECT_EQ(back.sampled[1].token.logprob, -0.5f);
  ASSERT_EQ(back.sampled[1].token.top_logprobs.size(), 2u);
  EXPECT_EQ(back.sampled[1].token.top_logprobs[1].token, 2);
  EXPECT_EQ(back.sampled[1].token.top_logprobs[1].logprob, -3);
  ASSERT_EQ(back.errors.size(), 1u);
  EXPECT_EQ(back.errors[0].sequence_id, 6u);
  EXPECT_EQ(back.errors[0].message, "logits hold NaN");
  ASSERT_EQ(back.prompt_logprobs.size(), 1u);
  EXPECT_EQ(back.prompt_logprobs[0].sequence_id, 8u);
  EXPECT_EQ(back.prompt_logprobs[0].begin, 257);
  ASSERT_EQ(back.prompt_logprobs[0].tokens.size(), 2u);
  EXPECT_EQ(back.prompt_logprobs[0].tokens[0].token, 3);
  EXPECT_EQ(back.prompt_logprobs[0].tokens[0].logprob, -2);
  EXPECT_EQ(back.prompt_logprobs[0].tokens[0].top_logprobs[0].token, 9);
  EXPECT_EQ(back.prompt_logprobs[0].tokens[1].logprob, 0);
  EXPECT_THAT(back.failed_moves, ElementsAre(0, 3, kMaxMovesPerStep - 1));
}

TEST(StepPlanWire, RefusesPromptLogprobsOutOfRange) {
  const struct {
    const char* error;
    std::function<void(v1::PromptLogprobs&)> damage;
  } kCases[] = {
      {"first token", [](auto& p) { p.set_begin(0); }},
      {"begin", [](auto& p) { p.set_begin(kTooLarge); }},
      {"end above", [](auto& p) { p.set_begin(kTooLarge - 1); }},
      {"tokens is empty", [](auto& p) { p.clear_tokens(); }},
      {"without a logprob", [](auto& p) { p.mutable_tokens(0)->clear_logprob(); }},
      {"token_id", [](auto& p) { p.mutable_tokens(0)->set_token_id(kTooLarge); }},
      {"top_logprobs has 21",
       [](auto& p) {
         while (p.tokens(0).top_logprobs_size() < 21) p.mutable_tokens(0)->add_top_logprobs();
       }},
  };
  v1::StepDone good;
  ToProto({.step_id = 1, .prompt_logprobs = {{4, 1, {{.token = 2, .logprob = -1}}}}}, &good);
  ASSERT_OK(FromProto(good));
  for (const auto& test : kCases) {
    v1::StepDone proto = good;
    test.damage(*proto.mutable_prompt_logprobs(0)->mutable_logprobs());
    EXPECT_THAT(FromProto(proto).status(),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(test.error)));
  }
}

TEST(StepPlanWire, RefusesResultsOutOfRange) {
  v1::StepDone proto;
  proto.set_seconds(-1);
  EXPECT_THAT(FromProto(proto).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("seconds")));
  proto.set_seconds(std::nan(""));
  EXPECT_THAT(FromProto(proto).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("seconds")));
  proto.set_seconds(1);
  proto.add_sampled()->mutable_token()->set_token_id(~0u);
  EXPECT_THAT(FromProto(proto).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("token_id")));
}

TEST(StepPlanWire, RefusesFailedMovesOutOfRangeOrOrder) {
  for (const std::vector<uint32_t>& moves :
       {std::vector<uint32_t>{kMaxMovesPerStep}, {kTooLarge}, {2, 1}, {0, 1, 1}}) {
    v1::StepDone proto;
    proto.mutable_failed_moves()->Assign(moves.begin(), moves.end());
    EXPECT_THAT(FromProto(proto).status(),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("failed_moves")));
  }
}

TEST(StepPlanWire, DamagedBytesGiveAnErrorOrASanePlan) {
  const uint32_t seed = std::random_device()();
  std::cout << "seed " << seed << "\n";
  std::mt19937 random(seed);
  const std::string good = FullProto().SerializeAsString();
  for (int i = 0; i < 2000; ++i) {
    std::string bad = good;
    bad[random() % bad.size()] = static_cast<char>(random());
    v1::StepPlan proto;
    if (!proto.ParseFromString(bad)) continue;
    const auto plan = FromProto(proto);
    if (!plan.ok()) continue;
    for (const Unit& unit : plan->units) {
      EXPECT_LT(unit.layer_begin, unit.layer_end);
      for (const Slice& slice : unit.slices) {
        EXPECT_GE(slice.begin, 0);
        EXPECT_FALSE(slice.token_ids.empty());
        for (const TokenId id : slice.token_ids) EXPECT_GE(id, 0);
        for (const BlockId id : slice.new_block_ids) EXPECT_GE(id, 0);
      }
    }
  }
}

}  // namespace
}  // namespace longhaul::worker
