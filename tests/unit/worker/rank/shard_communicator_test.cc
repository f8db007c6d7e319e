#include "worker/rank/shard_communicator.h"

#include <cmath>
#include <functional>
#include <thread>

#include "tests/testing/status_matchers.h"
#include "worker/backend/cpu_backend.h"
#include "worker/comm/local_communicator.h"

namespace longhaul::worker::rank {
namespace {

using ::longhaul::testing::StatusIs;
using ::testing::HasSubstr;

TensorView View(std::vector<float>& values, int64_t rows) {
  return {values.data(), DType::kFloat32, rows, static_cast<int64_t>(values.size()) / rows};
}

void OnEveryRank(std::vector<std::unique_ptr<comm::Communicator>>& ranks,
                 const std::function<void(ShardCommunicator& sums, int rank)>& work) {
  std::vector<std::thread> threads;
  for (auto& communicator : ranks) {
    threads.emplace_back([&communicator, &work] {
      const auto backend = backend::MakeCpuBackend(1);
      ShardCommunicator sums(*communicator, *backend);
      work(sums, communicator->rank());
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(ShardCommunicator, EveryRankHasTheSum) {
  auto ranks = comm::MakeLocalGroup(3);
  OnEveryRank(ranks, [](ShardCommunicator& sums, int rank) {
    std::vector<float> values = {1.0f, std::ldexp(1.0f, 8 * rank), -2.0f * static_cast<float>(rank),
                                 0.5f};
    EXPECT_EQ(sums.shard(), rank);
    EXPECT_OK(sums.Await(1));  // nothing is pending
    EXPECT_OK(sums.BeginSum(View(values, 2), 1));
    EXPECT_OK(sums.Await(1));
    EXPECT_EQ(values, (std::vector<float>{3, 65793, -6, 1.5f}));
  });
}

TEST(ShardCommunicator, RankZeroHasAllPartsInTheirOrder) {
  auto ranks = comm::MakeLocalGroup(3);
  OnEveryRank(ranks, [](ShardCommunicator& sums, int rank) {
    // Two rows of rank + 1 columns: not all parts are of a size.
    std::vector<float> own(static_cast<size_t>(2 * (rank + 1)), static_cast<float>(rank + 10));
    if (rank != 0) {
      EXPECT_OK(sums.Gather(View(own, 2), {}));
      return;
    }
    std::vector<float> second(4, NAN);
    std::vector<float> third(6, NAN);
    const std::vector<TensorView> parts = {View(own, 2), View(second, 2), View(third, 2)};
    EXPECT_OK(sums.Gather(parts[0], parts));
    EXPECT_EQ(own, std::vector<float>(2, 10.0f));
    EXPECT_EQ(second, std::vector<float>(4, 11.0f));
    EXPECT_EQ(third, std::vector<float>(6, 12.0f));
  });
}

TEST(ShardCommunicator, ALostRankEndsTheCallsOfTheOthersAndSaysWhich) {
  auto ranks = comm::MakeLocalGroup(2);
  ranks.pop_back();
  const auto backend = backend::MakeCpuBackend(1);
  ShardCommunicator sums(*ranks.front(), *backend);
  std::vector<float> values(6);
  EXPECT_THAT(sums.BeginSum(View(values, 2), 0),
              StatusIs(absl::StatusCode::kUnavailable,
                       HasSubstr("sum of [2, 3] over 2 tensor-parallel ranks")));
}

}  // namespace
}  // namespace longhaul::worker::rank
