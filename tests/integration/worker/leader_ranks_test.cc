// What a leader does with a group of several ranks, over the real control wire.
#include <functional>
#include <set>

#include "common/model_config.h"
#include "tests/testing/leader_fixture.h"

namespace longhaul::worker::leader {
namespace {

using ::longhaul::testing::FakeRank;
using ::longhaul::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAreArray;
using Case = v1::ExecuteEvent::EventCase;

// Two stages of two ranks; rank 2 samples.
class LeaderRanksTest : public ::longhaul::testing::LeaderFixture {
 protected:
  static constexpr int32_t kRanks = 4;
  static constexpr int32_t kSampler = 2;

  LeaderRanksTest() {
    const auto shape =
        GroupShape::Make({.tensor_parallel_size = 2, .pipeline_parallel_size = 2},
                         ModelConfig{.num_layers = 2, .intermediate_size = 2, .num_kv_heads = 2});
    CHECK(shape.ok()) << shape.status();
    model_.shape = *shape;
  }

  FakeRank::Options OptionsOf(int32_t rank) {
    FakeRank::Options options = rank_options_;
    options.samples = rank == kSampler;
    options.seconds_per_token = 1e-6 * (1 + rank);
    return options;
  }
  // Starts the group; ranks are as OptionsOf says unless they were set before.
  absl::Status TryStartGroup() {
    for (int32_t rank = 0; rank < kRanks; ++rank) {
      if (!changed_.contains(rank)) launcher_.SetOptionsOf(rank, OptionsOf(rank));
    }
    return TryStart();
  }
  void StartGroup() {
    ASSERT_OK(TryStartGroup());
    channel_ = grpc::CreateChannel(leader_->address(), grpc::InsecureChannelCredentials());
    stub_ = v1::Worker::NewStub(channel_);
    ASSERT_TRUE(WaitForLoad([](const Load& load) { return load.ready(); }));
  }
  void Change(int32_t rank, const FakeRank::Options& options) {
    changed_.insert(rank);
    launcher_.SetOptionsOf(rank, options);
  }

  std::set<int32_t> changed_;
};

TEST_F(LeaderRanksTest, EveryRankGetsEveryPlanAndOneSamples) {
  StartGroup();
  EXPECT_THAT(Tokens(Execute(2000, 5)->Rest()), SizeIs(5));
  const size_t plans = launcher_.Newest(kSampler)->plans().size();
  EXPECT_GE(plans, 6u);
  for (int32_t rank = 0; rank < kRanks; ++rank) {
    const auto fake = launcher_.Newest(rank);
    EXPECT_TRUE(fake->WaitForPlans(plans, absl::Now() + absl::Seconds(10))) << rank;
    EXPECT_THAT(fake->violations(), ::testing::IsEmpty()) << rank;
  }
  EXPECT_TRUE(AllBlocksFree());
}

TEST_F(LeaderRanksTest, RanksOfAnotherModelOrVersionAreRefused) {
  const struct {
    const char* name;
    std::function<void(FakeRank::Options&)> change;
    const char* text;
  } kCases[] = {
      {"model",
       [](auto& o) {
         o.model_digest = {9, 9};
       },
       "rank 1 (fake): its model has digest"},
      {"version", [](auto& o) { o.protocol_version = 2; },
       "rank 1 (fake): it speaks protocol version 2, the leader 3"},
  };
  for (const auto& test : kCases) {
    FakeRank::Options options = OptionsOf(1);
    test.change(options);
    Change(1, options);
    EXPECT_THAT(TryStartGroup(), StatusIs(absl::StatusCode::kUnavailable, HasSubstr(test.text)))
        << test.name;
    leader_.reset();
    for (int32_t rank = 0; rank < kRanks; ++rank) {
      EXPECT_TRUE(launcher_.Newest(rank)->WaitForEnd(absl::Now() + absl::Seconds(10))) << rank;
    }
  }
}

TEST_F(LeaderRanksTest, TheSmallestMemoryCounts) {
  FakeRank::Options options = OptionsOf(3);
  options.kv_capacity_blocks = 500;
  Change(3, options);
  StartGroup();
  EXPECT_EQ(leader_->board().Get().kv_blocks, 500);
}

TEST_F(LeaderRanksTest, TheFewestSlotsCount) {
  rank_options_.host_slots = 10;
  rank_options_.disk_slots = 20;
  FakeRank::Options options = OptionsOf(3);
  options.host_slots = 7;
  Change(3, options);
  options = OptionsOf(1);
  options.disk_slots = uint64_t{5} << 32;  // far more than anybody counts
  Change(1, options);
  StartGroup();
  for (int32_t rank = 0; rank < kRanks; ++rank) {
    EXPECT_EQ(launcher_.Newest(rank)->slots(), std::pair(7u, 20u)) << rank;
  }
  options = OptionsOf(2);
  options.disk_slots = 0;
  Change(2, options);
  launcher_.Newest(0)->Die();
  launcher_.WaitForLaunch(2 * kRanks);
  ASSERT_TRUE(WaitForLoad([](const Load& load) { return load.ready(); }));
  EXPECT_EQ(launcher_.Newest(0)->slots(), std::pair(7u, 0u));
}

TEST_F(LeaderRanksTest, RendezvousReachesAllRanksLateOnesToo) {
  FakeRank::Entries all;
  for (int32_t rank = 0; rank < kRanks; ++rank) {
    FakeRank::Options options = OptionsOf(rank);
    options.rendezvous = {{absl::StrCat("a", rank), std::string(64 << 10, '\0')},
                          {absl::StrCat("b", rank), absl::StrCat("value ", rank)}};
    all.insert(all.end(), options.rendezvous.begin(), options.rendezvous.end());
    if (rank == 3) options.register_delay = absl::Milliseconds(300);
    Change(rank, options);
  }
  StartGroup();
  for (int32_t rank = 0; rank < kRanks; ++rank) {
    EXPECT_THAT(launcher_.Newest(rank)->WaitForEntries(all.size()), UnorderedElementsAreArray(all))
        << rank;
  }
  // The next incarnation begins with none.
  for (int32_t rank = 0; rank < kRanks; ++rank) Change(rank, OptionsOf(rank));
  launcher_.Newest(1)->Die();
  launcher_.WaitForLaunch(2 * kRanks);
  ASSERT_TRUE(WaitForLoad([](const Load& load) { return load.ready(); }));
  EXPECT_THAT(launcher_.Newest(0)->WaitForEntries(0), SizeIs(0));
}

TEST_F(LeaderRanksTest, RendezvousIsBounded) {
  FakeRank::Entries many;
  for (int i = 0; i < 2 * kRanks + 1; ++i) many.emplace_back(absl::StrCat(i), "");
  const struct {
    const char* text;
    FakeRank::Entries entries;
  } kCases[] = {
      {"9 rendezvous entries, limit 8", many},
      {"key \"a\" is set", {{"a", ""}, {"a", "b"}}},
      {"with 65537 bytes", {{"a", std::string((64 << 10) + 1, 'x')}}},
      {"rendezvous key of 257 bytes", {{std::string(257, 'x'), ""}}},
  };
  for (const auto& test : kCases) {
    FakeRank::Options options = OptionsOf(0);
    options.rendezvous = test.entries;
    Change(0, options);
    // The others hold the start back until the entries have come.
    FakeRank::Options late = OptionsOf(1);
    late.register_delay = absl::Milliseconds(300);
    Change(1, late);
    EXPECT_THAT(TryStartGroup(), StatusIs(absl::StatusCode::kUnavailable,
                                          AllOf(HasSubstr("rank 0 (fake)"), HasSubstr(test.text))));
    leader_.reset();
  }
}

TEST_F(LeaderRanksTest, WhoeverHasNotDoneAStalledStepIsNamed) {
  tuning_.stall_floor = absl::Milliseconds(500);
  tuning_.unpredicted_stall_limit = absl::Milliseconds(500);
  for (int32_t rank = 0; rank < kRanks; ++rank) {
    FakeRank::Options options = OptionsOf(rank);
    options.step_time = absl::Milliseconds(5);
    Change(rank, options);
  }
  StartGroup();
  auto client = Execute(100, 1000);
  client->NextOf(Case::kTokens);
  launcher_.Newest(1)->Stall();
  launcher_.Newest(3)->Stall();
  const v1::ExecuteFinished finished = client->NextOf(Case::kFinished).finished();
  EXPECT_EQ(finished.error_code(), grpc::UNAVAILABLE);
  EXPECT_THAT(finished.error(), AllOf(HasSubstr("stalled"), HasSubstr("not done by rank 1, rank 3"),
                                      Not(HasSubstr("rank 0"))));
}

TEST_F(LeaderRanksTest, OneLostRankRestartsAll) {
  for (int32_t rank = 0; rank < kRanks; ++rank) {
    FakeRank::Options options = OptionsOf(rank);
    options.step_time = absl::Milliseconds(20);
    Change(rank, options);
  }
  StartGroup();
  for (int32_t rank = 0; rank < kRanks; ++rank) {
    const size_t launches = launcher_.launches();
    auto client = std::make_unique<longhaul::testing::ExecuteClient>(*stub_);
    std::vector<TokenId> prompt = Prompt(5000);
    prompt[0] = 100 + rank;  // nothing of it is cached
    client->Send(Header(5000, 3));
    client->SendPrompt(prompt);
    client->CloseSending();
    client->NextOf(Case::kProgress);
    std::vector<std::shared_ptr<FakeRank>> lost;
    for (int32_t each = 0; each < kRanks; ++each) lost.push_back(launcher_.Newest(each));
    lost[static_cast<size_t>(rank)]->Die();
    EXPECT_THAT(Tokens(client->Rest()), SizeIs(3)) << "replayed";
    EXPECT_EQ(launcher_.launches(), launches + kRanks);
    for (const auto& each : lost) EXPECT_TRUE(each->WaitForEnd(absl::Now()));
  }
  EXPECT_TRUE(AllBlocksFree());
}

TEST_F(LeaderRanksTest, ARestartedGroupMayHaveWhatItHad) {
  StartGroup();
  FakeRank::Options less = OptionsOf(0);
  less.kv_capacity_blocks = 900;  // its automatic share of what is free now
  less.kv_limit_blocks = 1000;
  Change(0, less);
  launcher_.Newest(3)->Die();
  launcher_.WaitForLaunch(2 * kRanks);
  ASSERT_TRUE(WaitForLoad([](const Load& load) { return load.ready(); }));
  EXPECT_EQ(leader_->board().Get().kv_blocks, 1000);
  EXPECT_EQ(launcher_.launches(), 2u * kRanks);
}

}  // namespace
}  // namespace longhaul::worker::leader
