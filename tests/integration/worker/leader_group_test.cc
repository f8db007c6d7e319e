// What a leader does when its ranks misbehave, over the real control wire.
#include <algorithm>

#include "tests/testing/leader_fixture.h"

namespace longhaul::worker::leader {
namespace {

using ::longhaul::testing::FakeRank;
using ::longhaul::testing::StatusIs;
using ::testing::HasSubstr;
using ::testing::SizeIs;
using Case = v1::ExecuteEvent::EventCase;

class LeaderGroupTest : public ::longhaul::testing::LeaderFixture {
 protected:
  static absl::Time Soon() { return absl::Now() + absl::Seconds(10); }
};

TEST_F(LeaderGroupTest, ARequestWithoutATokenIsReplayedOnTheNextIncarnation) {
  rank_options_.step_time = absl::Milliseconds(20);
  Start();
  auto client = Execute(5000, 3);
  client->NextOf(Case::kProgress);
  rank_->Die();
  const std::vector<v1::ExecuteEvent> events = client->Rest();
  EXPECT_THAT(Tokens(events), SizeIs(3));
  EXPECT_EQ(events.back().finished().reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(launcher_.launches(), 2u);
  EXPECT_TRUE(AllBlocksFree());
}

TEST_F(LeaderGroupTest, ARequestWithTokensFailsWhenItsRankDies) {
  rank_options_.step_time = absl::Milliseconds(20);
  Start();
  auto client = Execute(100, 1000);
  client->NextOf(Case::kTokens);
  rank_->Die();
  const v1::ExecuteFinished finished = client->NextOf(Case::kFinished).finished();
  EXPECT_EQ(finished.reason(), v1::FINISH_REASON_ERROR);
  EXPECT_EQ(finished.error_code(), grpc::UNAVAILABLE);
  // Its stream or its process, whichever is seen first.
  EXPECT_THAT(finished.error(), HasSubstr("ended; exit code 1"));
}

TEST_F(LeaderGroupTest, TheNextIncarnationServes) {
  Start();
  for (int i = 1; i <= 3; ++i) {
    const uint64_t before = leader_->board().Get().incarnation;
    launcher_.WaitForLaunch(i)->Die();
    ASSERT_TRUE(WaitForLoad([before](const Load& load) { return load.incarnation > before; }));
    EXPECT_THAT(Tokens(Execute(100, 5)->Rest()), SizeIs(5));
  }
}

TEST_F(LeaderGroupTest, ASilentRankIsLostEvenWhenIdle) {
  tuning_.silence_limit = absl::Milliseconds(1500);  // a beat and a half
  Start();
  const absl::Time frozen = absl::Now();
  rank_->Freeze();
  launcher_.WaitForLaunch(2);
  EXPECT_LT(absl::Now() - frozen, absl::Seconds(4));
  EXPECT_TRUE(WaitForLoad([](const Load& load) { return load.ready(); }));
}

TEST_F(LeaderGroupTest, ALeaderThatWasHeldUpBlamesNoRank) {
  rank_options_.step_time = absl::Milliseconds(20);
  Start();
  auto client = Execute(100, 100);
  std::vector<TokenId> tokens = Tokens({client->NextOf(Case::kTokens)});
  for (int i = 0; i < 3; ++i) {
    clock_.Jump(700);  // longer than a rank may be silent, and than any step may take
    absl::SleepFor(absl::Milliseconds(1200));  // a heartbeat
  }
  for (const TokenId token : Tokens(client->Rest())) tokens.push_back(token);
  EXPECT_THAT(tokens, SizeIs(100));
  EXPECT_EQ(launcher_.launches(), 1u);
}

TEST_F(LeaderGroupTest, AStalledRankIsLostThoughItsHeartBeats) {
  tuning_.stall_floor = absl::Milliseconds(400);
  tuning_.unpredicted_stall_limit = absl::Milliseconds(400);
  tuning_.stuck_lead = absl::Milliseconds(200);
  Start();
  rank_->Stall();
  auto client = Execute(100, 3);
  EXPECT_THAT(Tokens(client->Rest()), SizeIs(3)) << "replayed";
  EXPECT_EQ(rank_->stack_dumps(), 1) << "asked before it was given up";
  EXPECT_EQ(launcher_.launches(), 2u);
}

TEST_F(LeaderGroupTest, ALongStepThatNothingPredictsIsGivenTime) {
  tuning_.stall_floor = absl::Milliseconds(100);
  tuning_.unpredicted_stall_limit = absl::Seconds(30);
  rank_options_.step_time = absl::Milliseconds(300);
  Start();
  auto client = Execute(100, 0);
  EXPECT_EQ(client->NextOf(Case::kFinished).finished().reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(launcher_.launches(), 1u);
}

TEST_F(LeaderGroupTest, NaNFailsOneRequestOnly) {
  rank_options_.step_time = absl::Milliseconds(5);
  Start();
  auto good = Execute(100, 200);
  good->NextOf(Case::kTokens);
  rank_->FailNextSequence("NaN in the logits");
  const v1::ExecuteFinished finished = good->NextOf(Case::kFinished).finished();
  EXPECT_EQ(finished.error_code(), grpc::INTERNAL);
  EXPECT_EQ(finished.error(), "NaN in the logits");
  EXPECT_THAT(Tokens(Execute(100, 5)->Rest()), SizeIs(5));
  EXPECT_EQ(launcher_.launches(), 1u);
}

TEST_F(LeaderGroupTest, AStrangerWithoutTheSecretIsRefusedAndHarmsNobody) {
  Start();
  FakeRank::Options options = rank_options_;
  options.secret = "guess";
  FakeRank stranger(options, leader_->control_address());
  ASSERT_TRUE(stranger.WaitForEnd(Soon()));
  EXPECT_THAT(stranger.end(), HasSubstr(absl::StrCat(grpc::UNAUTHENTICATED)));
  options.secret = "secret";
  FakeRank twin(options, leader_->control_address());
  ASSERT_TRUE(twin.WaitForEnd(Soon()));
  EXPECT_THAT(twin.end(), HasSubstr(absl::StrCat(grpc::FAILED_PRECONDITION)));
  EXPECT_THAT(twin.end(), HasSubstr("taken"));
  EXPECT_THAT(Tokens(Execute(100, 5)->Rest()), SizeIs(5));
  EXPECT_EQ(launcher_.launches(), 1u);
}

TEST_F(LeaderGroupTest, StartUpErrorsAreFinalAndSayWhy) {
  struct Start {
    const char* name;
    std::function<void(FakeRank::Options&)> change;
    const char* text;
  };
  const Start cases[] = {
      {"weights", [](auto& o) { o.fail_start = "model.safetensors: q_proj is missing"; },
       "q_proj is missing"},
      {"digest",
       [](auto& o) {
         o.model_digest = {9, 9};
       },
       "digest"},
      {"protocol", [](auto& o) { o.protocol_version = 7; }, "protocol version 7"},
      {"memory", [](auto& o) { o.kv_capacity_blocks = 0; }, "--kv-cache-gib"},
  };
  const FakeRank::Options good = rank_options_;
  size_t launches = 0;
  for (const Start& c : cases) {
    rank_options_ = good;
    c.change(rank_options_);
    EXPECT_THAT(TryStart(), StatusIs(absl::StatusCode::kUnavailable, HasSubstr(c.text))) << c.name;
    EXPECT_EQ(launcher_.launches(), ++launches) << c.name << ": not retried";
    leader_.reset();
  }
}

TEST_F(LeaderGroupTest, NumbersThatDoNotGoTogetherAreNamed) {
  config_.max_num_batched_tokens = 260;
  EXPECT_THAT(TryStart(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("264")));
  config_.max_num_batched_tokens = 1024;
  config_.max_model_len = 200'001;
  EXPECT_THAT(TryStart(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("max_position_embeddings")));
  config_.max_model_len = 100'000;
  rank_options_.kv_capacity_blocks = 100;
  EXPECT_THAT(TryStart(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("raise --kv-cache-gib")));
}

TEST_F(LeaderGroupTest, ARankWithLessMemoryThanBeforeDoesNotServe) {
  Start();
  FakeRank::Options less = rank_options_;
  less.kv_capacity_blocks = 999;
  launcher_.SetOptions(less);
  rank_->Die();
  launcher_.WaitForLaunch(3);  // tried again
  EXPECT_FALSE(leader_->board().Get().ready());
  launcher_.SetOptions(rank_options_);
  EXPECT_TRUE(WaitForLoad([](const Load& load) { return load.ready(); }));
}

TEST_F(LeaderGroupTest, RestartsBackOff) {
  tuning_.min_backoff = absl::Milliseconds(50);
  tuning_.max_backoff = absl::Milliseconds(200);
  Start();
  FakeRank::Options broken = rank_options_;
  broken.fail_start = "broken";
  launcher_.SetOptions(broken);
  rank_->Die();
  launcher_.WaitForLaunch(3);
  const absl::Time third = absl::Now();
  launcher_.WaitForLaunch(5);
  EXPECT_GT(absl::Now() - third, absl::Milliseconds(350)) << "200 ms twice";
  launcher_.SetOptions(rank_options_);
  EXPECT_TRUE(WaitForLoad([](const Load& load) { return load.ready(); }));
}

}  // namespace
}  // namespace longhaul::worker::leader
