// Leaders that hang: their connections stay open, nothing comes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/testing/fake_worker.h"
#include "tests/testing/jumping_clock.h"
#include "tests/testing/recording_sink.h"
#include "tests/testing/router_stack.h"
#include "tests/testing/status_matchers.h"

namespace longhaul::router {
namespace {

using longhaul::testing::FakeBehavior;
using longhaul::testing::FakeExecution;
using longhaul::testing::FakeWorker;
using longhaul::testing::JumpingClock;
using longhaul::testing::RecordedResponse;
using longhaul::testing::RecordingSink;
using longhaul::testing::RouterStack;
using longhaul::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::SizeIs;

// The fakes report twice a second.
constexpr absl::Duration kSilence = absl::Milliseconds(1500);
// Well below the 30 s after which gRPC's pings would end a connection.
constexpr absl::Duration kNoticed = absl::Seconds(5);

class SilentLeader : public ::testing::Test {
 protected:
  SilentLeader() : router_({.workers = Start(), .stale_after = kSilence}) {
    CHECK(router_.WaitForGroups(2));
  }

  // Both generate what hangs after `tokens` of them.
  void HangAfter(int32_t tokens) {
    FakeBehavior hanging;
    hanging.hang_after_tokens = tokens;
    for (const auto& worker : workers_) worker->SetBehavior(hanging);
  }

  std::shared_ptr<RecordingSink> Submit() {
    GenerateRequest request;
    request.input = TextInput{"What is the pass key?"};
    return router_.Submit(std::move(request));
  }

  // The one that executes.
  FakeWorker& Executing() { return *workers_[workers_[0]->executions().empty() ? 1 : 0]; }
  FakeWorker& Idle() { return *workers_[workers_[0]->executions().empty() ? 0 : 1]; }

  static bool Cancelled(const std::vector<FakeExecution>& executions) {
    return executions.at(0).cancelled;
  }

 private:
  std::vector<std::string> Start() {
    for (auto& worker : workers_) {
      auto started = FakeWorker::Start({});
      CHECK(started.ok()) << started.status();
      worker = *std::move(started);
    }
    return {workers_[0]->address(), workers_[1]->address()};
  }

 protected:
  std::unique_ptr<FakeWorker> workers_[2];
  RouterStack router_;
};

TEST_F(SilentLeader, IsReplacedForWhatHasNoToken) {
  HangAfter(0);
  const auto sink = Submit();
  sink->WaitFor([](const RecordedResponse& r) { return r.progress.size() == 2; });
  FakeBehavior saying;
  saying.script = *router_.model().tokenizer->Encode("still here", text::SpecialTokens::kAsText);
  FakeWorker& hung = Executing();
  Idle().SetBehavior(saying);
  hung.SetSilent(true);
  const RecordedResponse response = sink->WaitForEnd(kNoticed);
  ASSERT_TRUE(response.done);
  ASSERT_FALSE(response.error) << *response.error;
  EXPECT_EQ(response.Text(), "still here");
  EXPECT_EQ(workers_[0]->executions().at(0).id, workers_[1]->executions().at(0).id);
  EXPECT_EQ(workers_[0]->executions().at(0).seed, workers_[1]->executions().at(0).seed);
  EXPECT_TRUE(hung.WaitFor(Cancelled));
  EXPECT_EQ(router_.cluster().view()->groups.size(), 1u);
}

TEST_F(SilentLeader, IsAClearErrorForWhatHasTokens) {
  HangAfter(3);
  const auto sink = Submit();
  sink->WaitFor([](const RecordedResponse& r) { return r.deltas.size() == 3; });
  Executing().SetSilent(true);
  const RecordedResponse response = sink->WaitForEnd(kNoticed);
  ASSERT_TRUE(response.error.has_value());
  EXPECT_THAT(*response.error,
              StatusIs(absl::StatusCode::kUnavailable,
                       AllOf(HasSubstr("lost after 3 tokens"), HasSubstr(Executing().address()),
                             HasSubstr("reports nothing"))));
  EXPECT_TRUE(Idle().executions().empty());
}

TEST_F(SilentLeader, ComesBackWhenItSpeaksAgain) {
  workers_[0]->SetSilent(true);
  ASSERT_TRUE(router_.WaitForGroups(1));
  ASSERT_TRUE(router_.WaitForView(
      [&](const ClusterView& view) { return view.silent == std::vector{workers_[0]->address()}; }));
  workers_[0]->SetSilent(false);
  ASSERT_TRUE(router_.WaitForGroups(2));
  EXPECT_THAT(router_.cluster().view()->silent, SizeIs(0));
}

TEST(HeldUpRouter, TakesNoLeaderForSilent) {
  std::vector<std::unique_ptr<FakeWorker>> workers;
  std::vector<std::string> addresses;
  for (int i = 0; i < 3; ++i) {
    auto worker = FakeWorker::Start({});
    ASSERT_TRUE(worker.ok()) << worker.status();
    addresses.push_back((*worker)->address());
    workers.push_back(*std::move(worker));
  }
  JumpingClock clock;
  RouterMetrics metrics;
  const WorkerChannels channels(addresses);
  ClusterWatch watch({.addresses = addresses, .model = "demo"}, channels, clock, metrics);
  watch.Start([] {});
  const auto wait_for = [&](int32_t count) {
    const absl::Time end = absl::Now() + absl::Seconds(10);
    while (watch.num_healthy() != count && absl::Now() < end) absl::SleepFor(absl::Milliseconds(2));
    return watch.num_healthy() == count;
  };
  ASSERT_TRUE(wait_for(3));
  for (int i = 0; i < 3; ++i) {
    clock.Jump(20);  // as after SIGCONT: nothing was heard for so long
    const absl::Time end = absl::Now() + absl::Seconds(1);
    while (absl::Now() < end) {
      ASSERT_EQ(watch.num_healthy(), 3);
      absl::SleepFor(absl::Milliseconds(1));
    }
  }
  // Who says nothing from now on is silent as soon as ever; reports of the others move the clock
  // on.
  workers[0]->SetSilent(true);
  clock.Jump(1);
  EXPECT_TRUE(wait_for(2));
}

}  // namespace
}  // namespace longhaul::router
