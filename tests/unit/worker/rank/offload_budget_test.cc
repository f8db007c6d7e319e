#include "worker/rank/offload_budget.h"

#include "tests/testing/status_matchers.h"

namespace longhaul::worker::rank {
namespace {

using ::longhaul::testing::StatusIs;
using ::testing::HasSubstr;

constexpr int64_t kMib = int64_t{1} << 20;
constexpr int64_t kGib = int64_t{1} << 30;

TEST(OffloadBudget, SlotsAreWhatTheSettingsHold) {
  ASSERT_OK_AND_ASSIGN(const OffloadBudget budget, BudgetOffload({.host_gib = 1,
                                                                  .disk_gib = 2,
                                                                  .block_bytes = kMib,
                                                                  .free_bytes = 2 * kGib,
                                                                  .cache_bytes = kGib}));
  EXPECT_EQ(budget.host_slots, 1024);
  EXPECT_EQ(budget.disk_slots, 2 * kGib / (kMib + 4096));  // a page for the checksum
}

TEST(OffloadBudget, NothingIsAskedForUnlessItIs) {
  ASSERT_OK_AND_ASSIGN(const OffloadBudget budget, BudgetOffload({.block_bytes = kMib}));
  EXPECT_EQ(budget.host_slots, 0);
  EXPECT_EQ(budget.disk_slots, 0);
}

TEST(OffloadBudget, MemoryIsSharedWithTheCacheAndTheGroup) {
  OffloadBudgetParams params = {.host_gib = 1,
                                .block_bytes = kMib,
                                .free_bytes = 6 * kGib,
                                .cache_bytes = 2 * kGib,
                                .group_ranks = 2};
  EXPECT_OK(BudgetOffload(params));
  const OffloadBudgetParams good = params;
  params.host_gib = 1.01;
  EXPECT_THAT(BudgetOffload(params).status(),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("kv-offload-gib is 1.01 for each of the group's 2 ranks on this "
                                 "host, free memory is 6.0 GiB, of which each KV cache may take "
                                 "2.0 GiB")));
  params = good;
  params.group_ranks = 3;
  EXPECT_TRUE(absl::IsInvalidArgument(BudgetOffload(params).status()));
  params = good;
  params.cache_bytes = 7 * kGib;
  EXPECT_TRUE(absl::IsInvalidArgument(BudgetOffload(params).status()));
}

TEST(OffloadBudget, LessThanABlockIsAMistake) {
  EXPECT_THAT(BudgetOffload({.host_gib = 0.0001, .block_bytes = kMib, .free_bytes = kGib}).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("kv-offload-gib 0.0001")));
  EXPECT_THAT(
      BudgetOffload({.disk_gib = 0.0001, .block_bytes = kMib}).status(),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("kv-offload-disk-gib 0.0001")));
}

}  // namespace
}  // namespace longhaul::worker::rank
