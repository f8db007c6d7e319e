#include "worker/rank/kv_budget.h"

#include "common/types.h"
#include "tests/testing/status_matchers.h"

namespace longhaul::worker::rank {
namespace {

using ::longhaul::testing::StatusIs;
using ::testing::HasSubstr;

constexpr int64_t kGib = int64_t{1} << 30;

// A block of 1 MiB, 8 GiB free.
KvBudgetParams Params() {
  return {.free_bytes = 8 * kGib, .block_bytes = 1 << 20, .longest_prompt = 1 << 30};
}

TEST(KvBudget, IsOnePromptAndSomeShortOnesWhereMemoryHoldsThem) {
  KvBudgetParams params = Params();
  params.longest_prompt = 1000 * kKvBlockTokens + 1;
  ASSERT_OK(BudgetKv(params));
  EXPECT_EQ(BudgetKv(params)->capacity, 1001 + 32'768 / kKvBlockTokens);
}

TEST(KvBudget, IsTheRanksShareOfHalfTheFreeMemory) {
  KvBudgetParams params = Params();
  EXPECT_EQ(BudgetKv(params)->capacity, 4096);
  params.ranks_on_host = 8;
  params.group_ranks = 2;
  EXPECT_EQ(BudgetKv(params)->capacity, 512);
}

TEST(KvBudget, AGroupThatRestartsMayHaveWhatItHadWhileItIsFree) {
  KvBudgetParams params = Params();
  params.ranks_on_host = 4;
  params.group_ranks = 2;
  const int64_t had = BudgetKv(params)->capacity;
  params.free_bytes = 4 * kGib;  // the other group has filled its cache
  EXPECT_LT(BudgetKv(params)->capacity, had);
  EXPECT_GE(BudgetKv(params)->limit, had);
  params.free_bytes = kGib;
  EXPECT_LT(BudgetKv(params)->limit, had);
}

TEST(KvBudget, TakesTheNumberThatWasAskedForIfTheGroupsRanksFit) {
  KvBudgetParams params = Params();
  params.kv_cache_gib = 2;
  params.ranks_on_host = 8;
  params.group_ranks = 4;
  EXPECT_EQ(BudgetKv(params)->capacity, 2048);
  EXPECT_EQ(BudgetKv(params)->limit, 2048);
  params.kv_cache_gib = 2.001;
  EXPECT_THAT(BudgetKv(params), StatusIs(absl::StatusCode::kInvalidArgument,
                                         HasSubstr("kv-cache-gib is 2.001 for each of the group's "
                                                   "4 ranks on this host, free memory is 8.0")));
}

TEST(KvBudget, HoldsABlockAtLeast) {
  KvBudgetParams params = Params();
  params.kv_cache_gib = 0.0009;
  EXPECT_THAT(BudgetKv(params), StatusIs(absl::StatusCode::kInvalidArgument,
                                         HasSubstr("kv-cache-gib 0.0009 holds not even one")));
  params = Params();
  params.free_bytes = 1 << 20;
  EXPECT_THAT(BudgetKv(params),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("free memory")));
}

TEST(KvBudget, IsWithinTheNumbersOfBlocks) {
  KvBudgetParams params = Params();
  params.block_bytes = 1;
  params.free_bytes = int64_t{1} << 50;
  params.kv_cache_gib = 65536;
  EXPECT_EQ(BudgetKv(params)->capacity, INT32_MAX);
  EXPECT_EQ(BudgetKv(params)->limit, INT32_MAX);
}

// A block of 1 MiB, 8 GiB free, 3 of them for weights and 1 for activations.
DeviceKvBudgetParams DeviceParams() {
  return {.utilization = 0.75,
          .free_bytes = 8 * kGib,
          .weight_bytes = 3 * kGib,
          .activation_bytes = kGib,
          .block_bytes = 1 << 20};
}

TEST(DeviceKvBudget, IsWhatTheUtilizationLeavesBesideWeightsAndActivations) {
  ASSERT_OK(BudgetDeviceKv(DeviceParams()));
  EXPECT_EQ(BudgetDeviceKv(DeviceParams())->capacity, 2048);
  EXPECT_EQ(BudgetDeviceKv(DeviceParams())->limit, 4096);
}

TEST(DeviceKvBudget, TakesTheNumberThatWasAskedForUpToAllThatIsFree) {
  DeviceKvBudgetParams params = DeviceParams();
  params.kv_cache_gib = 4;
  EXPECT_EQ(BudgetDeviceKv(params)->capacity, 4096);
  params.kv_cache_gib = 4.001;
  EXPECT_THAT(BudgetDeviceKv(params),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("kv-cache-gib is 4.001, but of the 8.00 GiB that are free on the "
                                 "device, weights take 3.00 and activations 1.00")));
  params.kv_cache_gib = 0.0009;
  EXPECT_THAT(BudgetDeviceKv(params), StatusIs(absl::StatusCode::kInvalidArgument,
                                               HasSubstr("holds not even one block of 256")));
}

TEST(DeviceKvBudget, SaysWhatTakesAllTheMemory) {
  DeviceKvBudgetParams params = DeviceParams();
  params.utilization = 0.5;
  EXPECT_THAT(BudgetDeviceKv(params), StatusIs(absl::StatusCode::kInvalidArgument,
                                               HasSubstr("gpu-memory-utilization is 0.5")));
  params.utilization = 1;
  params.weight_bytes = 9 * kGib;
  EXPECT_THAT(BudgetDeviceKv(params),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("leaves no KV cache")));
}

}  // namespace
}  // namespace longhaul::worker::rank
