#include "router/cluster_watch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <ctime>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/testing/fake_worker.h"
#include "tests/testing/router_stack.h"
#include "tests/testing/temp_dir.h"

namespace longhaul::router {
namespace {

using longhaul::testing::FakeWorker;
using longhaul::testing::RouterStack;
using longhaul::testing::TempDir;

std::unique_ptr<FakeWorker> StartWorker(FakeWorker::Options options) {
  auto worker = FakeWorker::Start(std::move(options));
  CHECK(worker.ok()) << worker.status();
  return *std::move(worker);
}

double ProcessCpuSeconds() {
  timespec time;
  CHECK(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time) == 0);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

TEST(ClusterWatch, ShowsWhatHelloAndLoadSay) {
  const auto worker = StartWorker({.model_digest = {7, 8},
                                   .incarnation = 99,
                                   .max_model_len = 5000,
                                   .kv_blocks = 321,
                                   .max_waiting_long = 2,
                                   .long_prompt_tokens = 1234,
                                   .load = {.running_requests = 3,
                                            .waiting_requests = 4,
                                            .queued_seconds = 1.5,
                                            .seconds_per_token = 0.25,
                                            .free_kv_blocks = 111}});
  RouterStack router({.workers = {worker->address()}});
  ASSERT_TRUE(router.WaitForGroups(1));
  const Group group = router.cluster().view()->groups.at(0);
  EXPECT_EQ(group.address, worker->address());
  EXPECT_EQ(group.incarnation, 99u);
  EXPECT_EQ(group.limits.model, "demo");
  EXPECT_EQ(group.limits.model_digest, (Digest{7, 8}));
  EXPECT_EQ(group.limits.max_model_len, 5000);
  EXPECT_EQ(group.limits.kv_blocks, 321);
  EXPECT_EQ(group.limits.max_waiting_long, 2);
  EXPECT_EQ(group.limits.long_prompt_tokens, 1234);
  EXPECT_GE(group.load.sequence, 1u);
  EXPECT_EQ(group.load.running_requests, 3);
  EXPECT_EQ(group.load.waiting_requests, 4);
  EXPECT_EQ(group.load.queued_seconds, 1.5);
  EXPECT_EQ(group.load.free_kv_blocks, 111);
  EXPECT_EQ(group.PrefillSeconds(100), 25.0);
}

bool WaitForCached(RouterStack& router, const std::vector<Digest>& identities) {
  const absl::Time deadline = absl::Now() + absl::Seconds(10);
  while (absl::Now() < deadline) {
    const auto view = router.cluster().view();
    if (!view->groups.empty() && view->groups[0].cached != nullptr) {
      const PrefixSet& cached = *view->groups[0].cached;
      if (cached.size() == identities.size() &&
          std::ranges::all_of(identities, [&](const Digest& i) { return cached.Contains(i); })) {
        return true;
      }
    }
    absl::SleepFor(absl::Milliseconds(2));
  }
  return false;
}

TEST(ClusterWatch, FollowsTheCachedPrefixes) {
  const Digest a = {1, 1}, b = {2, 2}, c = {3, 3};
  const auto worker = StartWorker({.prefix_root = {5, 6}, .prefix_root_max_tokens = 777});
  RouterStack router({.workers = {worker->address()}});
  ASSERT_TRUE(router.WaitForGroups(1));
  EXPECT_EQ(router.cluster().view()->groups[0].limits.prefix_root, (Digest{5, 6}));
  EXPECT_EQ(router.cluster().view()->groups[0].limits.prefix_root_max_tokens, 777);
  EXPECT_EQ(router.cluster().view()->groups[0].cached, nullptr);
  std::vector<longhaul::testing::FakeCacheDelta> deltas = {
      {.sequence = 1, .reset = true, .added = {a, b}}};
  worker->SetCacheDeltas(deltas);
  EXPECT_TRUE(WaitForCached(router, {a, b}));
  deltas.push_back({.sequence = 2, .added = {c}, .removed = {a}});
  worker->SetCacheDeltas(deltas);
  EXPECT_TRUE(WaitForCached(router, {b, c}));
  deltas.push_back({.sequence = 3, .reset = true, .added = {a}});
  worker->SetCacheDeltas(deltas);
  EXPECT_TRUE(WaitForCached(router, {a}));
}

TEST(ClusterWatch, AGapInTheDeltasMeansToWatchAgain) {
  const Digest a = {1, 1}, b = {2, 2}, c = {3, 3};
  const auto worker = StartWorker({});
  RouterStack router({.workers = {worker->address()}});
  ASSERT_TRUE(router.WaitForGroups(1));
  std::vector<longhaul::testing::FakeCacheDelta> deltas = {{.sequence = 1, .added = {a}}};
  worker->SetCacheDeltas(deltas);
  ASSERT_TRUE(WaitForCached(router, {a}));
  deltas.push_back({.sequence = 3, .added = {b}});
  worker->SetCacheDeltas(deltas);
  ASSERT_TRUE(router.WaitForGroups(0));
  worker->SetCacheDeltas({{.sequence = 1, .reset = true, .added = {c}}});
  EXPECT_TRUE(WaitForCached(router, {c}));
}

TEST(ClusterWatch, ADeadLeaderLeavesTheViewAtOnceAndItsNextLifeEntersIt) {
  const TempDir dir;
  const std::string address = absl::StrCat("unix:", dir.path(), "/leader.sock");
  auto worker = StartWorker({.address = address, .incarnation = 1});
  RouterStack router({.workers = {address}});
  ASSERT_TRUE(router.WaitForGroups(1));
  worker->Stop();
  const absl::Time died = absl::Now();
  ASSERT_TRUE(router.WaitForGroups(0));
  EXPECT_TRUE(router.cluster().view()->groups.empty());
  EXPECT_LT(absl::Now() - died, absl::Seconds(2));
  worker.reset();
  worker = StartWorker({.address = address, .incarnation = 2});
  ASSERT_TRUE(router.WaitForGroups(1));
  EXPECT_EQ(router.cluster().view()->groups.at(0).incarnation, 2u);
}

TEST(ClusterWatch, ASilentLeaderLeavesTheView) {
  const auto worker = StartWorker({});
  // The fake reports twice a second: below that it counts as silent between two reports.
  RouterStack router({.workers = {worker->address()}, .stale_after = absl::Milliseconds(150)});
  ASSERT_TRUE(router.WaitForGroups(1));
  ASSERT_TRUE(router.WaitForGroups(0));
  ASSERT_TRUE(router.WaitForGroups(1));  // and is asked again
}

TEST(ClusterWatch, AGroupOfAnotherModelOrProtocolStaysOut) {
  const auto good = StartWorker({});
  const auto foreign = StartWorker({.model = "another"});
  const auto future = StartWorker({.protocol_version = kProtocolVersion + 1});
  RouterStack router({.workers = {foreign->address(), future->address(), good->address()}});
  ASSERT_TRUE(router.WaitForGroups(1));
  absl::SleepFor(absl::Milliseconds(300));
  ASSERT_EQ(router.cluster().view()->groups.size(), 1u);
  EXPECT_EQ(router.cluster().view()->groups[0].address, good->address());
}

TEST(ClusterWatch, DrainingAndNotReadyGroupsAreNotHealthy) {
  const auto worker = StartWorker({});
  RouterStack router({.workers = {worker->address()}});
  ASSERT_TRUE(router.WaitForGroups(1));
  worker->SetLoad({.draining = true});
  EXPECT_TRUE(router.WaitForGroups(0));
  worker->SetLoad({.ready = true});
  EXPECT_TRUE(router.WaitForGroups(1));
  worker->SetLoad({.ready = false});
  EXPECT_TRUE(router.WaitForGroups(0));
  EXPECT_EQ(router.cluster().view()->groups.size(), 1u);
}

TEST(ClusterWatch, WaitingForLeadersThatAreNotThereTakesNoTime) {
  RouterStack router({.workers = {"127.0.0.1:1", "unix:/nonexistent/leader.sock"},
                      .max_backoff = absl::Seconds(2)});
  absl::SleepFor(absl::Seconds(1));
  const double before = ProcessCpuSeconds();
  absl::SleepFor(absl::Seconds(1));
  EXPECT_LT(ProcessCpuSeconds() - before, 0.05);
}

}  // namespace
}  // namespace longhaul::router
