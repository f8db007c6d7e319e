#include "worker/rank/control_stream.h"

#include <thread>

#include "absl/strings/str_cat.h"
#include "tests/testing/fake_leader.h"
#include "tests/testing/status_matchers.h"

namespace longhaul::worker::rank {
namespace {

using ::longhaul::testing::FakeLeader;
using ::longhaul::testing::StatusIs;
using ::testing::HasSubstr;

class ControlStreamTest : public ::testing::Test {
 protected:
  // Opens the stream and serves it on a thread.
  void Start() {
    auto stream = ControlStream::Open(
        leader_.address(),
        {.secret = "s3cret", .rank = 4, .model_digest = {1, 2}, .kv_capacity_blocks = 77},
        progress_, absl::Now() + absl::Seconds(10), {});
    ASSERT_OK(stream);
    stream_ = *std::move(stream);
    reader_ = std::thread([this] {
      ended_ = stream_->Run({.on_start =
                                 [this](GroupPlace place) {
                                   place_ = place;
                                   return absl::OkStatus();
                                 },
                             .on_plan =
                                 [this](StepPlan plan) {
                                   if (plan.step_id == 13) return absl::InternalError("unlucky");
                                   last_step_ = plan.step_id;
                                   return stream_->SendStepDone({.step_id = plan.step_id});
                                 },
                             .on_rendezvous =
                                 [this](std::string key, std::string value) {
                                   entries_.emplace_back(std::move(key), std::move(value));
                                   return absl::OkStatus();
                                 },
                             .on_end = [this] { ++ends_; }});
    });
    register_ = leader_.Next();
    ASSERT_TRUE(register_.has_value());
  }
  // Why Run returned.
  absl::Status Ended() {
    reader_.join();
    return ended_;
  }
  static v1::LeaderMessage GoodStart() {
    v1::LeaderMessage message;
    v1::Start* start = message.mutable_start();
    start->set_incarnation(9);
    start->set_tensor_parallel_size(1);
    start->set_pipeline_parallel_size(2);
    start->set_layer_begin(1);
    start->set_layer_end(3);
    start->set_kv_blocks(5);
    return message;
  }
  static v1::LeaderMessage Plan(StepId step) {
    v1::LeaderMessage message;
    message.mutable_plan()->set_step_id(step);
    return message;
  }

  FakeLeader leader_;
  StepProgress progress_;
  std::unique_ptr<ControlStream> stream_;
  std::thread reader_;
  std::optional<v1::RankMessage> register_;
  GroupPlace place_;
  StepId last_step_ = 0;
  std::vector<std::pair<std::string, std::string>> entries_;
  int ends_ = 0;
  absl::Status ended_;
};

TEST_F(ControlStreamTest, RegistersTakesItsPlaceAndAnswersPlans) {
  Start();
  const v1::Register& proto = register_->register_();
  EXPECT_EQ(proto.secret(), "s3cret");
  EXPECT_EQ(proto.protocol_version(), kProtocolVersion);
  EXPECT_EQ(proto.rank(), 4u);
  EXPECT_EQ(proto.model_digest(), (Digest{1, 2}.ToBytes()));
  EXPECT_EQ(proto.kv_capacity_blocks(), 77u);
  EXPECT_EQ(proto.pid(), getpid());
  leader_.Send(GoodStart());
  EXPECT_OK(stream_->SendStarted({.seconds = 2, .weight_bytes = 3, .kv_bytes = 4}));
  const auto started = leader_.Next();
  ASSERT_TRUE(started.has_value() && started->has_started());
  EXPECT_EQ(started->started().kv_bytes(), 4u);
  EXPECT_OK(stream_->SendRendezvous("tensor0/gloo/1", std::string("a\0b", 3)));
  const auto entry = leader_.Next();
  ASSERT_TRUE(entry.has_value() && entry->has_rendezvous());
  EXPECT_EQ(entry->rendezvous().key(), "tensor0/gloo/1");
  EXPECT_EQ(entry->rendezvous().value(), std::string("a\0b", 3));
  v1::LeaderMessage relayed;
  *relayed.mutable_rendezvous() = entry->rendezvous();
  leader_.Send(relayed);
  leader_.Send(Plan(1));
  const auto done = leader_.Next();
  ASSERT_TRUE(done.has_value() && done->has_step_done());
  EXPECT_EQ(done->step_done().step_id(), 1u);
  leader_.End(grpc::Status::OK);
  EXPECT_OK(Ended());
  EXPECT_EQ(entries_, (std::vector<std::pair<std::string, std::string>>{
                          {"tensor0/gloo/1", std::string("a\0b", 3)}}));
  EXPECT_EQ(ends_, 1);
  EXPECT_EQ(place_.incarnation, 9u);
  EXPECT_EQ(place_.pipeline_parallel_size, 2);
  EXPECT_EQ(place_.layer_begin, 1);
  EXPECT_EQ(place_.layer_end, 3);
  EXPECT_EQ(place_.kv_blocks, 5);
}

TEST_F(ControlStreamTest, ResultsKeepTheirPlaceAmongOtherMessages) {
  Start();
  leader_.Send(GoodStart());
  constexpr StepId kSteps = 200;
  for (StepId step = 1; step <= kSteps; ++step) {
    StepResult result = {.step_id = step};
    // Some are too long to be written by their sender.
    if (step % 3 == 0) result.errors.push_back({.message = std::string(100'000, 'x')});
    EXPECT_OK(stream_->SendRendezvous(absl::StrCat(step), ""));
    EXPECT_OK(stream_->SendStepDone(result));
  }
  for (StepId step = 1; step <= kSteps; ++step) {
    const auto entry = leader_.Next();
    ASSERT_TRUE(entry.has_value() && entry->has_rendezvous());
    EXPECT_EQ(entry->rendezvous().key(), absl::StrCat(step));
    const auto done = leader_.Next();
    ASSERT_TRUE(done.has_value() && done->has_step_done());
    EXPECT_EQ(done->step_done().step_id(), step);
  }
  stream_->Cancel();
  EXPECT_TRUE(absl::IsCancelled(Ended()));
  EXPECT_TRUE(absl::IsCancelled(stream_->SendStepDone({.step_id = kSteps + 1})));
}

TEST_F(ControlStreamTest, SendersDoNotDisturbEachOther) {
  Start();
  leader_.Send(GoodStart());
  constexpr int kMessages = 200;
  std::thread other([this] {
    for (int i = 0; i < kMessages; ++i) EXPECT_OK(stream_->SendRendezvous(absl::StrCat(i), ""));
  });
  for (int i = 1; i <= kMessages; ++i) {
    EXPECT_OK(stream_->SendStepDone({.step_id = static_cast<StepId>(i)}));
  }
  other.join();
  StepId steps = 0;
  int entries = 0;
  for (int i = 0; i < 2 * kMessages; ++i) {
    const auto message = leader_.Next();
    ASSERT_TRUE(message.has_value());
    if (message->has_step_done()) {
      EXPECT_EQ(message->step_done().step_id(), ++steps);
    } else {
      EXPECT_EQ(message->rendezvous().key(), absl::StrCat(entries++));
    }
  }
  stream_->Cancel();
  EXPECT_TRUE(absl::IsCancelled(Ended()));
}

TEST_F(ControlStreamTest, HeartbeatsTellWhichStepRunsSinceWhen) {
  Start();
  const auto idle = leader_.NextHeartbeat();
  ASSERT_TRUE(idle.has_value());
  EXPECT_EQ(idle->heartbeat().step_id(), 0u);
  progress_.Begin(6);
  const auto busy = leader_.NextHeartbeat();
  ASSERT_TRUE(busy.has_value());
  EXPECT_EQ(busy->heartbeat().step_id(), 6u);
  EXPECT_GT(busy->heartbeat().step_seconds(), 0);
  EXPECT_LT(busy->heartbeat().step_seconds(), 5);
  stream_->Cancel();
  EXPECT_TRUE(absl::IsCancelled(Ended()));
}

TEST_F(ControlStreamTest, ReturnsTheLeadersRefusal) {
  Start();
  leader_.End(grpc::Status(grpc::StatusCode::UNAUTHENTICATED, "wrong secret"));
  EXPECT_THAT(Ended(), StatusIs(absl::StatusCode::kUnauthenticated, HasSubstr("wrong secret")));
}

TEST_F(ControlStreamTest, AnAbortCarriesItsReason) {
  Start();
  v1::LeaderMessage message;
  message.mutable_abort()->set_reason("rank 1 is lost");
  leader_.Send(message);
  EXPECT_THAT(Ended(), StatusIs(absl::StatusCode::kAborted, HasSubstr("rank 1 is lost")));
}

TEST_F(ControlStreamTest, TellsTheLeaderWhyItFails) {
  Start();
  leader_.Send(GoodStart());
  stream_->Fail(absl::InternalError("layer 3 is cold"));
  const auto failed = leader_.Next();
  ASSERT_TRUE(failed.has_value() && failed->has_failed());
  EXPECT_THAT(failed->failed().message(), HasSubstr("layer 3 is cold"));
  EXPECT_THAT(Ended(), StatusIs(absl::StatusCode::kInternal, HasSubstr("layer 3 is cold")));
}

TEST_F(ControlStreamTest, AHandlersErrorEndsTheStream) {
  Start();
  leader_.Send(GoodStart());
  leader_.Send(Plan(13));
  EXPECT_THAT(Ended(), StatusIs(absl::StatusCode::kInternal, HasSubstr("unlucky")));
}

TEST_F(ControlStreamTest, RefusesALeaderThatBreaksTheProtocol) {
  v1::LeaderMessage no_layers = GoodStart();
  no_layers.mutable_start()->set_layer_begin(3);
  v1::LeaderMessage no_blocks = GoodStart();
  no_blocks.mutable_start()->set_kv_blocks(0);
  v1::LeaderMessage bad_plan = Plan(1);
  bad_plan.mutable_plan()->add_units();
  const struct {
    const char* error;
    std::vector<v1::LeaderMessage> messages;
  } kCases[] = {
      {"plan before start", {Plan(1)}},      {"second start", {GoodStart(), GoodStart()}},
      {"layers [3, 3)", {no_layers}},        {"kv_blocks 0", {no_blocks}},
      {"units[0]", {GoodStart(), bad_plan}}, {"no known kind", {v1::LeaderMessage()}},
  };
  for (const auto& test : kCases) {
    FakeLeader leader;
    auto stream =
        ControlStream::Open(leader.address(), {}, progress_, absl::Now() + absl::Seconds(10), {});
    ASSERT_OK(stream);
    std::thread sender([&] {
      ASSERT_TRUE(leader.WaitForRank());
      for (const auto& message : test.messages) leader.Send(message);
    });
    EXPECT_THAT(
        (*stream)->Run({.on_start = [](GroupPlace) { return absl::OkStatus(); },
                        .on_plan = [](StepPlan) { return absl::OkStatus(); },
                        .on_rendezvous = [](std::string, std::string) { return absl::OkStatus(); },
                        .on_end = [] {}}),
        StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(test.error)));
    sender.join();
  }
}

TEST(ControlStream, SaysThatNobodyAnswers) {
  const testing::TempDir folder;
  const StepProgress progress;
  EXPECT_THAT(ControlStream::Open("unix:" + folder.path() + "/nobody", {}, progress,
                                  absl::Now() + absl::Milliseconds(100), {})
                  .status(),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("/nobody")));
}

}  // namespace
}  // namespace longhaul::worker::rank
