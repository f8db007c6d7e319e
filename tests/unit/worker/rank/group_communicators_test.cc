#include "worker/rank/group_communicators.h"

#include <signal.h>

#include <array>
#include <functional>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "tests/testing/memory_rendezvous.h"
#include "tests/testing/status_matchers.h"

namespace longhaul::worker::rank {
namespace {

using ::longhaul::testing::MemoryRendezvous;
using ::longhaul::testing::StatusIs;
using ::testing::_;

// Two stages of two shards, each rank a thread.
class GroupCommunicatorsTest : public ::testing::Test {
 protected:
  static constexpr int32_t kRanks = 4;

  GroupCommunicatorsTest() {
    signal(SIGPIPE, SIG_IGN);  // as the program does
    for (int32_t rank = 0; rank < kRanks; ++rank) {
      ranks_.push_back(
          std::make_unique<GroupCommunicators>(GroupCommunicators::Options{.host = "127.0.0.1"}));
    }
  }

  void OnEveryRank(const std::function<void(int32_t)>& run) {
    std::vector<std::thread> threads;
    for (int32_t rank = 0; rank < kRanks; ++rank) threads.emplace_back([&run, rank] { run(rank); });
    for (std::thread& thread : threads) thread.join();
  }
  void Connect() {
    OnEveryRank([this](int32_t rank) { EXPECT_OK(ranks_[rank]->Connect(shape_, rank, store_)); });
    ASSERT_FALSE(HasFailure());
  }
  static TensorView View(float& value) { return {&value, DType::kFloat32, 1, 1}; }

  const GroupShape shape_ =
      GroupShape::Make({.tensor_parallel_size = 2, .pipeline_parallel_size = 2},
                       ModelConfig{.num_layers = 2, .intermediate_size = 2, .num_kv_heads = 2})
          .value();
  MemoryRendezvous store_;
  std::vector<std::unique_ptr<GroupCommunicators>> ranks_;
};

TEST_F(GroupCommunicatorsTest, JoinTheShardsOfAStageAndTheStagesOfAShard) {
  Connect();
  std::array<float, kRanks> sums = {1, 2, 4, 8};
  std::array<float, kRanks> received = {};
  OnEveryRank([&](int32_t rank) {
    GroupCommunicators& own = *ranks_[rank];
    EXPECT_EQ(own.tensor().rank(), rank % 2);
    EXPECT_EQ(own.pipeline().rank(), rank / 2);
    EXPECT_OK(own.tensor().AllReduceSum(View(sums[rank]), {}));
    float number = static_cast<float>(rank);
    if (rank < 2) {
      EXPECT_OK(own.pipeline().Send(View(number), 1, {}));
    } else {
      EXPECT_OK(own.pipeline().Recv(View(received[rank]), 0, {}));
    }
    EXPECT_OK(own.Poll());
  });
  EXPECT_EQ(sums, (std::array<float, kRanks>{3, 3, 12, 12}));
  EXPECT_EQ(received[2], 0);
  EXPECT_EQ(received[3], 1);
}

TEST_F(GroupCommunicatorsTest, AbortFreesWhoWaitsHereAndThere) {
  Connect();
  OnEveryRank([this](int32_t rank) {
    float number = 0;
    absl::Status status = absl::UnavailableError("its own");
    // 1 and 2 wait for 3, which aborts; 0 waits for 1.
    if (rank == 3) {
      absl::SleepFor(absl::Milliseconds(50));
    } else if (rank == 1) {
      status = ranks_[rank]->pipeline().Recv(View(number), 1, {});
    } else {
      status = ranks_[rank]->tensor().Recv(View(number), 1, {});
    }
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnavailable, _)) << rank;
    ranks_[rank]->Abort();
    EXPECT_THAT(ranks_[rank]->Poll(), StatusIs(absl::StatusCode::kUnavailable, _)) << rank;
  });
}

TEST_F(GroupCommunicatorsTest, AnAbortBeforeTheEndOfConnectingCounts) {
  const GroupShape alone(1);
  GroupCommunicators own({.host = "127.0.0.1"});
  own.Abort();
  EXPECT_THAT(own.Connect(alone, 0, store_), StatusIs(absl::StatusCode::kUnavailable, _));
}

TEST_F(GroupCommunicatorsTest, AGroupOfOneNeedsNoNetwork) {
  GroupCommunicators own({.host = "no such host"});
  EXPECT_OK(own.Connect(GroupShape(3), 0, store_));
  EXPECT_EQ(own.tensor().size(), 1);
  EXPECT_EQ(own.pipeline().size(), 1);
  EXPECT_OK(own.Poll());
}

}  // namespace
}  // namespace longhaul::worker::rank
