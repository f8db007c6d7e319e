#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <numeric>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "tests/testing/status_matchers.h"
#include "worker/comm/communicator.h"

namespace longhaul::worker::comm {

// The contract of communicator.h as tests, for any implementation: instantiate with a type that has
//   static std::vector<std::unique_ptr<Communicator>> MakeGroup(int size, absl::Duration timeout);
// Sums are of small integers, so that every order of summation gives the same bits.
template <typename Factory>
class CommunicatorContract : public ::testing::Test {
 protected:
  using Ranks = std::vector<std::unique_ptr<Communicator>>;

  static Ranks MakeGroup(int size, absl::Duration timeout = absl::Seconds(20)) {
    return Factory::MakeGroup(size, timeout);
  }

  // Runs `work` on every rank, each on a thread of its own.
  static void OnEveryRank(Ranks& ranks, const std::function<void(Communicator&)>& work) {
    std::vector<std::thread> threads;
    for (auto& rank : ranks) threads.emplace_back([&work, &rank] { work(*rank); });
    for (std::thread& thread : threads) thread.join();
  }

  static TensorView View(std::vector<float>& values) {
    return {values.data(), DType::kFloat32, 1, static_cast<int64_t>(values.size())};
  }

  // Different for each rank and element.
  static std::vector<float> Numbers(int rank, size_t count) {
    std::vector<float> numbers(count);
    std::iota(numbers.begin(), numbers.end(), static_cast<float>(1000 * rank));
    return numbers;
  }
};

TYPED_TEST_SUITE_P(CommunicatorContract);

TYPED_TEST_P(CommunicatorContract, RanksAreNumbered) {
  auto ranks = this->MakeGroup(3);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(ranks[i]->rank(), i);
    EXPECT_EQ(ranks[i]->size(), 3);
    EXPECT_OK(ranks[i]->Poll());
  }
}

TYPED_TEST_P(CommunicatorContract, ARingPassesItsTensorsOn) {
  auto ranks = this->MakeGroup(4);
  this->OnEveryRank(ranks, [](Communicator& comm) {
    auto mine = TestFixture::Numbers(comm.rank(), 1025);
    std::vector<float> received(1025);
    const int next = (comm.rank() + 1) % 4;
    const int previous = (comm.rank() + 3) % 4;
    const TensorView to = TestFixture::View(received);
    if (comm.rank() == 0) {  // breaks the circle
      EXPECT_OK(comm.Recv(to, previous, {}));
      EXPECT_OK(comm.Send(TestFixture::View(mine), next, {}));
    } else {
      EXPECT_OK(comm.Send(TestFixture::View(mine), next, {}));
      EXPECT_OK(comm.Recv(to, previous, {}));
    }
    EXPECT_EQ(received, TestFixture::Numbers(previous, 1025));
  });
}

TYPED_TEST_P(CommunicatorContract, MessagesOfAPairKeepTheirOrder) {
  auto ranks = this->MakeGroup(2);
  this->OnEveryRank(ranks, [](Communicator& comm) {
    for (int i = 0; i < 50; ++i) {
      std::vector<float> number = {static_cast<float>(i)};
      if (comm.rank() == 0) {
        EXPECT_OK(comm.Send(TestFixture::View(number), 1, {}));
      } else {
        number[0] = -1;
        EXPECT_OK(comm.Recv(TestFixture::View(number), 0, {}));
        EXPECT_EQ(number[0], static_cast<float>(i));
      }
    }
  });
}

TYPED_TEST_P(CommunicatorContract, BroadcastGivesEveryoneTheRootsTensor) {
  auto ranks = this->MakeGroup(3);
  for (int root = 0; root < 3; ++root) {
    this->OnEveryRank(ranks, [root](Communicator& comm) {
      auto values = TestFixture::Numbers(comm.rank(), 77);
      EXPECT_OK(comm.Broadcast(TestFixture::View(values), root, {}));
      EXPECT_EQ(values, TestFixture::Numbers(root, 77));
    });
  }
}

TYPED_TEST_P(CommunicatorContract, AllReduceGivesEveryoneTheSum) {
  for (const int size : {1, 2, 4}) {
    auto ranks = this->MakeGroup(size);
    this->OnEveryRank(ranks, [size](Communicator& comm) {
      auto values = TestFixture::Numbers(comm.rank(), 300);
      EXPECT_OK(comm.AllReduceSum(TestFixture::View(values), {}));
      for (size_t i = 0; i < values.size(); ++i) {
        const float sum = static_cast<float>(500 * size * (size - 1) + size * static_cast<int>(i));
        EXPECT_EQ(values[i], sum) << "rank " << comm.rank() << " element " << i;
      }
    });
  }
}

TYPED_TEST_P(CommunicatorContract, AbortUnblocksAPeerAndPoisons) {
  auto ranks = this->MakeGroup(2);
  std::thread aborter([&] {
    absl::SleepFor(absl::Milliseconds(50));  // let the peer block first; either order is right
    ranks[1]->Abort();
    ranks[1]->Abort();
  });
  std::vector<float> values(4);
  EXPECT_THAT(ranks[0]->Recv(this->View(values), 1, {}),
              testing::StatusIs(absl::StatusCode::kUnavailable, ::testing::_));
  aborter.join();
  for (auto& rank : ranks) {
    EXPECT_TRUE(absl::IsUnavailable(rank->Poll()));
    EXPECT_TRUE(absl::IsUnavailable(rank->AllReduceSum(this->View(values), {})));
  }
}

TYPED_TEST_P(CommunicatorContract, APeerThatLeftIsUnavailable) {
  auto ranks = this->MakeGroup(2);
  std::thread leaver([&] {
    absl::SleepFor(absl::Milliseconds(50));  // as above
    ranks[1].reset();
  });
  std::vector<float> values(4);
  EXPECT_TRUE(absl::IsUnavailable(ranks[0]->Send(this->View(values), 1, {})));
  leaver.join();
  EXPECT_TRUE(absl::IsUnavailable(ranks[0]->Poll()));
}

TYPED_TEST_P(CommunicatorContract, AStalledPeerTimesOut) {
  auto ranks = this->MakeGroup(2, absl::Milliseconds(100));
  std::vector<float> values(4);
  EXPECT_TRUE(absl::IsUnavailable(ranks[0]->Recv(this->View(values), 1, {})));
  EXPECT_TRUE(absl::IsUnavailable(ranks[0]->Poll()));
}

TYPED_TEST_P(CommunicatorContract, RefusesPeersOutsideTheGroup) {
  auto ranks = this->MakeGroup(2);
  std::vector<float> values(4);
  for (const int peer : {-1, 0, 2}) {  // 0 is the caller
    EXPECT_TRUE(absl::IsInvalidArgument(ranks[0]->Send(this->View(values), peer, {}))) << peer;
    EXPECT_TRUE(absl::IsInvalidArgument(ranks[0]->Recv(this->View(values), peer, {}))) << peer;
  }
  EXPECT_TRUE(absl::IsInvalidArgument(ranks[0]->Broadcast(this->View(values), 2, {})));
  EXPECT_OK(ranks[0]->Poll());
}

REGISTER_TYPED_TEST_SUITE_P(CommunicatorContract, RanksAreNumbered, ARingPassesItsTensorsOn,
                            MessagesOfAPairKeepTheirOrder, BroadcastGivesEveryoneTheRootsTensor,
                            AllReduceGivesEveryoneTheSum, AbortUnblocksAPeerAndPoisons,
                            APeerThatLeftIsUnavailable, AStalledPeerTimesOut,
                            RefusesPeersOutsideTheGroup);

}  // namespace longhaul::worker::comm
