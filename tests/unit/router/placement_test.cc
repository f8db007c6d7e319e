#include "router/placement.h"

#include <gtest/gtest.h>

#include <functional>

namespace longhaul::router {
namespace {

// A healthy, idle group.
Group MakeGroup(std::string address) {
  Group group{.address = std::move(address), .incarnation = 7};
  group.limits = {.model = "demo",
                  .max_model_len = 100'000,
                  .kv_blocks = 1000,
                  .max_waiting_long = 1,
                  .long_prompt_tokens = 10'000};
  group.load = {.sequence = 1, .free_kv_blocks = 1000, .ready = true};
  return group;
}

PlacementRequest Request(int32_t prompt_tokens = 1000) {
  return {.model = "demo", .prompt_tokens = prompt_tokens, .max_tokens = 100};
}

TEST(Placement, SaysWhyNothingFits) {
  struct Case {
    const char* name;
    std::function<void(Group&)> change;
    int32_t prompt_tokens;
    PlacementOutcome outcome;
  };
  const Case cases[] = {
      {"fits", [](Group&) {}, 1000, PlacementOutcome::kPlaced},
      {"not ready", [](Group& g) { g.load.ready = false; }, 1000, PlacementOutcome::kNoHealthy},
      {"draining", [](Group& g) { g.load.draining = true; }, 1000, PlacementOutcome::kNoHealthy},
      {"another model", [](Group& g) { g.limits.model = "x"; }, 1000, PlacementOutcome::kNoHealthy},
      {"as long as can be", [](Group&) {}, 99'900, PlacementOutcome::kPlaced},
      {"a token too long", [](Group&) {}, 99'901, PlacementOutcome::kTooLong},
      {"slot for a long job taken", [](Group& g) { g.charge.waiting_long = 1; }, 10'000,
       PlacementOutcome::kFull},
      {"short job beside a long one", [](Group& g) { g.charge.waiting_long = 1; }, 9'999,
       PlacementOutcome::kPlaced},
      {"no KV free, others run",
       [](Group& g) {
         g.load.running_requests = 1;
         g.load.free_kv_blocks = 3;
       },
       1000, PlacementOutcome::kFull},
      {"just enough KV free",
       [](Group& g) {
         g.load.running_requests = 1;
         g.load.free_kv_blocks = 4;
       },
       1000, PlacementOutcome::kPlaced},
      {"KV charged by this router",
       [](Group& g) {
         g.load.free_kv_blocks = 10;
         g.charge = {.requests = 1, .kv_blocks = 7};
       },
       1000, PlacementOutcome::kFull},
      {"little KV but nothing runs: the leader judges", [](Group& g) { g.load.free_kv_blocks = 3; },
       1000, PlacementOutcome::kPlaced},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    ClusterView view{{MakeGroup("a")}};
    c.change(view.groups[0]);
    EXPECT_EQ(Place(view, Request(c.prompt_tokens)).outcome, c.outcome);
  }
}

TEST(Placement, AnEmptyClusterHasNoHealthyGroup) {
  EXPECT_EQ(Place(ClusterView{}, Request()).outcome, PlacementOutcome::kNoHealthy);
}

TEST(Placement, TakesTheGroupThatStartsSoonest) {
  ClusterView view{{MakeGroup("a"), MakeGroup("b"), MakeGroup("c")}};
  view.groups[0].load.queued_seconds = 3;
  view.groups[1].load.queued_seconds = 1;
  view.groups[2].load.queued_seconds = 0.5;
  view.groups[2].charge.seconds = 1;  // sent, not yet in its load
  EXPECT_EQ(Place(view, Request()).group, 1u);
}

TEST(Placement, CountsThatAFasterGroupFinishesThePromptSooner) {
  ClusterView view{{MakeGroup("slow"), MakeGroup("fast")}};
  view.groups[0].load.cost.b = 0.002;
  view.groups[1].load.cost.b = 0.001;
  view.groups[1].load.queued_seconds = 5;
  view.groups[1].load.running_requests = 3;
  EXPECT_EQ(Place(view, Request(100)).group, 0u);     // 0.2 s against 3 x 0.1 + 0.1 s
  EXPECT_EQ(Place(view, Request(10'000)).group, 1u);  // 20 s against 5 + 10 s
}

TEST(Placement, AShortPromptPassesLongOnesAndGoesWhereFewestAre) {
  ClusterView view{{MakeGroup("one long"), MakeGroup("short ones")}};
  for (Group& group : view.groups) group.load.cost.b = 0.001;
  view.groups[0].load.queued_seconds = 400;
  view.groups[0].load.running_requests = 1;
  view.groups[1].load.queued_seconds = 1;
  view.groups[1].load.running_requests = 10;
  EXPECT_EQ(Place(view, Request(100)).group, 0u);     // 0.1 s ahead of it against 1 s
  EXPECT_EQ(Place(view, Request(50'000)).group, 1u);  // 50 s against 1 s
}

TEST(Placement, BreaksTiesByRequestsThenFreeKv) {
  ClusterView view{{MakeGroup("a"), MakeGroup("b"), MakeGroup("c")}};
  view.groups[0].load.running_requests = 1;
  view.groups[2].load.free_kv_blocks = 1001;
  EXPECT_EQ(Place(view, Request()).group, 2u);
  view.groups[2].charge.requests = 1;
  EXPECT_EQ(Place(view, Request()).group, 1u);
}

TEST(Placement, AvoidsOneLifeOfAGroupOnly) {
  ClusterView view{{MakeGroup("a"), MakeGroup("b")}};
  PlacementRequest request = Request();
  request.avoid = {{"a", 7}};
  EXPECT_EQ(Place(view, request).group, 1u);
  request.avoid.push_back({"b", 7});
  EXPECT_EQ(Place(view, request).outcome, PlacementOutcome::kFull);
  view.groups[0].incarnation = 8;
  EXPECT_EQ(Place(view, request).group, 0u);
}

TEST(Placement, ChargesWhatTheLoadDoesNotShowYet) {
  ClusterView view{{MakeGroup("a")}};
  view.groups[0].load.cost.b = 0.001;
  const Placement placement = Place(view, Request(20'000));
  ASSERT_EQ(placement.outcome, PlacementOutcome::kPlaced);
  EXPECT_EQ(placement.charge.requests, 1);
  EXPECT_EQ(placement.charge.waiting_long, 1);
  EXPECT_NEAR(placement.charge.seconds, 20.0, 1e-9);
  EXPECT_EQ(placement.charge.kv_blocks, 79);  // ceil(20000 / 256)
}

TEST(Placement, NamesTheLongestGroupWhenAllAreTooShort) {
  ClusterView view{{MakeGroup("a"), MakeGroup("b")}};
  view.groups[1].limits.max_model_len = 120'000;
  const Placement placement = Place(view, Request(130'000));
  EXPECT_EQ(placement.outcome, PlacementOutcome::kTooLong);
  EXPECT_EQ(placement.max_model_len, 120'000);
}

}  // namespace
}  // namespace longhaul::router
