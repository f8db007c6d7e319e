#pragma once

#include <cstdint>
#include <cstdio>
#include <functional>
#include <limits>
#include <memory>
#include <numeric>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "tests/testing/status_matchers.h"
#include "worker/comm/communicator.h"

namespace longhaul::worker::comm {

// What an implementation does not promise; a factory overrides what differs.
struct CommunicatorTraits {
  // How many ranks this machine carries. Larger groups are not tried, and the tests say so.
  static int MaxRanks() { return std::numeric_limits<int>::max(); }
  // Whether tensors of matching calls that differ in size or type are noticed.
  static constexpr bool kSeesTensorsThatDiffer = true;
  // Whether peers hear at once of a rank that left or aborted, and not only by their own timeout.
  static constexpr bool kPeersHearOfTheEnd = true;
};

// The contract of communicator.h as tests, for any implementation: instantiate with a type that is
// CommunicatorTraits and has
//   static std::vector<std::unique_ptr<Communicator>> MakeGroup(int size, absl::Duration timeout);
// Sums are of small integers, so that every order of summation gives the same bits.
template <typename Factory>
class CommunicatorContract : public ::testing::Test {
 protected:
  using Ranks = std::vector<std::unique_ptr<Communicator>>;

  void SetUp() override {
    if (Factory::MaxRanks() < 2) {
      GTEST_SKIP() << "needs 2 ranks, this machine carries " << Factory::MaxRanks();
    }
  }

  static Ranks MakeGroup(int size, absl::Duration timeout = absl::Seconds(20)) {
    return Factory::MakeGroup(size, timeout);
  }

  // `size`, or as many ranks as this machine carries.
  static int AtMost(int size) {
    if (size <= Factory::MaxRanks()) return size;
    std::printf("not tried with %d ranks: this machine carries %d\n", size, Factory::MaxRanks());
    return Factory::MaxRanks();
  }

  // From `first` to at most `last` ranks.
  static std::vector<int> Sizes(int first, int last) {
    std::vector<int> sizes(static_cast<size_t>(AtMost(last) - first + 1));
    std::iota(sizes.begin(), sizes.end(), first);
    return sizes;
  }

  // For a rank whose peer is gone, which it hears of at once or by its timeout.
  static constexpr absl::Duration kUntilPeersHear =
      Factory::kPeersHearOfTheEnd ? absl::Seconds(20) : absl::Seconds(1);

  // Runs `work` on every rank, each on a thread of its own.
  static void OnEveryRank(Ranks& ranks, const std::function<void(Communicator&)>& work) {
    std::vector<std::thread> threads;
    for (auto& rank : ranks) threads.emplace_back([&work, &rank] { work(*rank); });
    for (std::thread& thread : threads) thread.join();
  }

  static TensorView View(std::vector<float>& values) {
    return {values.data(), DType::kFloat32, 1, static_cast<int64_t>(values.size())};
  }

  // Different for each rank, and for neighbouring elements.
  static std::vector<float> Numbers(int rank, size_t count) {
    std::vector<float> numbers(count);
    for (size_t i = 0; i < count; ++i) numbers[i] = Number(rank, i);
    return numbers;
  }
  static float Number(int rank, size_t i) {
    return static_cast<float>(10'000 * rank + static_cast<int>(i % 9973));
  }

  // None, one, odd ones around what a transport may send in one go, one of several segments.
  static constexpr size_t kSizes[] = {0, 1, 7, 300, 16'384, 16'385, 100'003};
  // 64 MiB and an element.
  static constexpr size_t kLarge = (size_t{64} << 18) + 1;

  // Every rank sums its Numbers with the others'.
  static void SumNumbers(Communicator& comm, size_t count) {
    auto values = Numbers(comm.rank(), count);
    ASSERT_OK(comm.AllReduceSum(View(values), {}));
    for (size_t i = 0; i < count; ++i) {
      float sum = 0;
      for (int rank = 0; rank < comm.size(); ++rank) sum += Number(rank, i);
      ASSERT_EQ(values[i], sum) << "rank " << comm.rank() << " element " << i << " of " << count;
    }
  }
};

TYPED_TEST_SUITE_P(CommunicatorContract);

TYPED_TEST_P(CommunicatorContract, RanksAreNumbered) {
  const int size = this->AtMost(3);
  auto ranks = this->MakeGroup(size);
  for (int i = 0; i < size; ++i) {
    EXPECT_EQ(ranks[i]->rank(), i);
    EXPECT_EQ(ranks[i]->size(), size);
    EXPECT_OK(ranks[i]->Poll());
  }
}

TYPED_TEST_P(CommunicatorContract, ARingPassesItsTensorsOn) {
  const int size = this->AtMost(4);
  auto ranks = this->MakeGroup(size);
  this->OnEveryRank(ranks, [size](Communicator& comm) {
    auto mine = TestFixture::Numbers(comm.rank(), 1025);
    std::vector<float> received(1025);
    const int next = (comm.rank() + 1) % size;
    const int previous = (comm.rank() + size - 1) % size;
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
  const int size = this->AtMost(3);
  auto ranks = this->MakeGroup(size);
  for (int root = 0; root < size; ++root) {
    this->OnEveryRank(ranks, [root](Communicator& comm) {
      auto values = TestFixture::Numbers(comm.rank(), 77);
      EXPECT_OK(comm.Broadcast(TestFixture::View(values), root, {}));
      EXPECT_EQ(values, TestFixture::Numbers(root, 77));
    });
  }
}

TYPED_TEST_P(CommunicatorContract, TensorsOfAnySizePass) {
  for (const int size : this->Sizes(2, 4)) {
    auto ranks = this->MakeGroup(size);
    this->OnEveryRank(ranks, [](Communicator& comm) {
      const int last = comm.size() - 1;
      for (const size_t count : TestFixture::kSizes) {
        auto values = TestFixture::Numbers(comm.rank(), count);
        if (comm.rank() == last) {
          ASSERT_OK(comm.Send(TestFixture::View(values), 0, {}));
        } else if (comm.rank() == 0) {
          ASSERT_OK(comm.Recv(TestFixture::View(values), last, {}));
        }
        ASSERT_OK(comm.Broadcast(TestFixture::View(values), 0, {}));
        ASSERT_EQ(values, TestFixture::Numbers(last, count)) << count << " elements";
      }
    });
  }
}

TYPED_TEST_P(CommunicatorContract, TensorsOfAnyTypePass) {
  auto ranks = this->MakeGroup(2);
  this->OnEveryRank(ranks, [](Communicator& comm) {
    for (const DType dtype : {DType::kBFloat16, DType::kFloat16}) {
      for (const int64_t rows : {3, 4096}) {
        std::vector<uint16_t> values(static_cast<size_t>(rows) * 17, 0x3f80);
        const TensorView view{values.data(), dtype, rows, 17};
        if (comm.rank() == 0) {
          for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<uint16_t>(i);
          ASSERT_OK(comm.Send(view, 1, {}));
        } else {
          ASSERT_OK(comm.Recv(view, 0, {}));
        }
        ASSERT_OK(comm.Broadcast(view, 1, {}));
        for (size_t i = 0; i < values.size(); ++i) ASSERT_EQ(values[i], static_cast<uint16_t>(i));
      }
    }
  });
}

TYPED_TEST_P(CommunicatorContract, AllReduceGivesEveryoneTheSum) {
  for (const int size : this->Sizes(1, 4)) {
    auto ranks = this->MakeGroup(size);
    this->OnEveryRank(ranks, [](Communicator& comm) {
      for (const size_t count : TestFixture::kSizes) TestFixture::SumNumbers(comm, count);
    });
  }
}

TYPED_TEST_P(CommunicatorContract, LargeTensorsPassAndAreSummed) {
  auto ranks = this->MakeGroup(2);
  this->OnEveryRank(ranks, [](Communicator& comm) {
    TestFixture::SumNumbers(comm, TestFixture::kLarge);
    auto values = TestFixture::Numbers(comm.rank(), TestFixture::kLarge);
    if (comm.rank() == 0) {
      ASSERT_OK(comm.Send(TestFixture::View(values), 1, {}));
    } else {
      ASSERT_OK(comm.Recv(TestFixture::View(values), 0, {}));
      ASSERT_TRUE(values == TestFixture::Numbers(0, TestFixture::kLarge));
    }
  });
}

TYPED_TEST_P(CommunicatorContract, RefusesToSumOtherTypes) {
  auto ranks = this->MakeGroup(2);
  this->OnEveryRank(ranks, [](Communicator& comm) {
    std::vector<uint16_t> values(2);
    EXPECT_TRUE(
        absl::IsInvalidArgument(comm.AllReduceSum({values.data(), DType::kFloat16, 1, 2}, {})));
    TestFixture::SumNumbers(comm, 2);
  });
}

TYPED_TEST_P(CommunicatorContract, BothSidesHearOfTensorsThatDifferAndGoOn) {
  if (!TypeParam::kSeesTensorsThatDiffer) GTEST_SKIP() << "undefined by this implementation";
  auto ranks = this->MakeGroup(2);
  this->OnEveryRank(ranks, [](Communicator& comm) {
    std::vector<float> values(100'000);
    const DType fp32 = DType::kFloat32;
    const auto call = [&](TensorView tensor) {
      return comm.rank() == 0 ? comm.Send(tensor, 1, {}) : comm.Recv(tensor, 0, {});
    };
    for (const int64_t count : {2, 100'000}) {
      const TensorView longer{values.data(), fp32, 1, count};
      const TensorView shorter{values.data(), fp32, 1, count - 1};
      const TensorView other_type{values.data(), DType::kBFloat16, 1, count};
      EXPECT_TRUE(absl::IsInvalidArgument(call(comm.rank() == 0 ? longer : shorter))) << count;
      EXPECT_TRUE(absl::IsInvalidArgument(call(comm.rank() == 0 ? shorter : longer))) << count;
      EXPECT_TRUE(absl::IsInvalidArgument(call(comm.rank() == 0 ? longer : other_type))) << count;
      EXPECT_TRUE(
          absl::IsInvalidArgument(comm.AllReduceSum(comm.rank() == 0 ? longer : shorter, {})))
          << count;
      EXPECT_OK(comm.Poll());
      EXPECT_OK(call(longer));
    }
    TestFixture::SumNumbers(comm, 5);
  });
}

TYPED_TEST_P(CommunicatorContract, AbortUnblocksAPeerAndPoisons) {
  auto ranks = this->MakeGroup(2, this->kUntilPeersHear);
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
  auto ranks = this->MakeGroup(2, this->kUntilPeersHear);
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
                            TensorsOfAnySizePass, TensorsOfAnyTypePass,
                            AllReduceGivesEveryoneTheSum, LargeTensorsPassAndAreSummed,
                            RefusesToSumOtherTypes, BothSidesHearOfTensorsThatDifferAndGoOn,
                            AbortUnblocksAPeerAndPoisons, APeerThatLeftIsUnavailable,
                            AStalledPeerTimesOut, RefusesPeersOutsideTheGroup);

}  // namespace longhaul::worker::comm
