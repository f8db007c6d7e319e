#include "router/placement.h"

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <numeric>
#include <vector>

#include "common/prefix_hash.h"

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

class CachedPlacementTest : public ::testing::Test {
 protected:
  static constexpr Digest kRoot = {5, 6};

  CachedPlacementTest() : tokens_(20'000) {
    std::iota(tokens_.begin(), tokens_.end(), 0);
    prefixes_ = {{.root = kRoot, .chain = PrefixChain(kRoot, tokens_)}};
    for (Group& group : view_.groups) {
      group.limits.prefix_root = kRoot;
      group.load.cost.b = 0.001;
    }
  }
  // The group has the first blocks of the prompt.
  void Cache(size_t group, size_t blocks) {
    view_.groups[group].cached = std::make_shared<const PrefixSet>(
        PrefixSet().Changed(std::span(prefixes_[0].chain).first(blocks), {}));
  }
  PlacementRequest CachedRequest(int32_t prompt_tokens = 20'000) const {
    PlacementRequest request = Request(prompt_tokens);
    request.prefixes = prefixes_;
    return request;
  }

  ClusterView view_{{MakeGroup("a"), MakeGroup("b")}};
  std::vector<TokenId> tokens_;
  std::vector<PromptPrefix> prefixes_;
};

TEST_F(CachedPlacementTest, GoesWhereLessIsLeftToPrefill) {
  Cache(1, 40);
  const Placement placement = Place(view_, CachedRequest());
  EXPECT_EQ(placement.group, 1u);
  EXPECT_NEAR(placement.charge.seconds, (20'000 - 40 * 256) * 0.001, 1e-9);
  EXPECT_EQ(Place(view_, Request(20'000)).group, 0u);
}

// Affinity must not pile everything onto one group.
TEST_F(CachedPlacementTest, ButNotWhereTheWaitIsLongerThanThePrefill) {
  Cache(1, 40);
  view_.groups[1].load.running_requests = 100;
  view_.groups[1].load.queued_seconds = 10.1;  // 20 s here against 10.1 + 9.8 s there
  EXPECT_EQ(Place(view_, CachedRequest()).group, 1u);
  view_.groups[1].load.queued_seconds = 10.5;
  EXPECT_EQ(Place(view_, CachedRequest()).group, 0u);
}

TEST_F(CachedPlacementTest, BeforeCostsAreKnownTheCacheDecidesBetweenIdleGroups) {
  for (Group& group : view_.groups) group.load.cost = {};
  Cache(1, 1);
  EXPECT_EQ(Place(view_, CachedRequest()).group, 1u);
  view_.groups[1].load.running_requests = 1;
  EXPECT_EQ(Place(view_, CachedRequest()).group, 0u);
}

TEST_F(CachedPlacementTest, CountsOnlyWhatTheGroupCanUse) {
  Cache(1, 78);
  const Group& group = view_.groups[1];
  EXPECT_EQ(group.CachedTokens(prefixes_, 20'000), 78 * 256);
  // The last token is prefilled whatever is cached.
  EXPECT_EQ(group.CachedTokens(prefixes_, 78 * 256), 77 * 256);
  EXPECT_EQ(group.CachedTokens(prefixes_, 1), 0);
  EXPECT_EQ(group.CachedTokens({}, 20'000), 0);
  EXPECT_EQ(view_.groups[0].CachedTokens(prefixes_, 20'000), 0);
  view_.groups[1].limits.prefix_root_max_tokens = 19'999;
  EXPECT_EQ(group.CachedTokens(prefixes_, 20'000), 0);
  EXPECT_EQ(group.CachedTokens(prefixes_, 19'999), 78 * 256);
  view_.groups[1].limits.prefix_root = {9, 9};
  EXPECT_EQ(group.CachedTokens(prefixes_, 19'999), 0);
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
