// On the machine's devices with NCCL, and (a second program) on the fakes of fake_nccl.h.
#include "worker/comm/nccl_communicator.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <utility>

#include "common/logging.h"
#include "kernels/kv_cache/bfloat16.h"
#include "tests/testing/memory_rendezvous.h"
#include "tests/unit/worker/comm/communicator_contract.h"
#include "tests/unit/worker/comm/staged_communicator.h"
#include "worker/comm/local_communicator.h"

namespace longhaul::worker::comm {
namespace {

using Ranks = std::vector<std::unique_ptr<Communicator>>;
using kernels::BFloat16ToFloat;
using kernels::FloatToBFloat16;
using ::longhaul::testing::MemoryRendezvous;
using ::longhaul::testing::StatusIs;
using ::testing::HasSubstr;

int Devices() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

// Ranks that this machine carries: one a device, or up to four where NCCL lets them share it.
int MaxRanks() {
  const char* shared = std::getenv("NCCL_MULTI_RANK_GPU_ENABLE");
  if (shared == nullptr || std::strcmp(shared, "1") != 0 || Devices() == 0) return Devices();
  return std::max(Devices(), 4);
}
int DeviceOf(int rank) { return rank % Devices(); }

class Announcement : public ::testing::Environment {
 public:
  void SetUp() override {
    if (MaxRanks() >= 2) return;
    std::printf("SKIPPED: tests of NCCL need 2 devices, this machine has %d\n", Devices());
  }
};
const auto* const kAnnouncement = ::testing::AddGlobalTestEnvironment(new Announcement);

void OnEveryRank(int size, const std::function<void(int)>& work) {
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) threads.emplace_back([&work, rank] { work(rank); });
  for (std::thread& thread : threads) thread.join();
}

// Ranks as threads.
Ranks MakeBareGroup(int size, absl::Duration timeout = absl::Seconds(20)) {
  MemoryRendezvous store;
  Ranks ranks(static_cast<size_t>(size));
  OnEveryRank(size, [&](int rank) {
    auto made = MakeNcclCommunicator(
        {.rank = rank, .size = size, .device = DeviceOf(rank), .timeout = timeout}, store);
    CHECK(made.ok()) << made.status();
    ranks[static_cast<size_t>(rank)] = *std::move(made);
  });
  return ranks;
}

Ranks MakeGroup(int size, absl::Duration timeout = absl::Seconds(20)) {
  Ranks ranks = MakeBareGroup(size, timeout);
  for (int rank = 0; rank < size; ++rank) {
    auto& comm = ranks[static_cast<size_t>(rank)];
    CHECK(cudaSetDevice(DeviceOf(rank)) == cudaSuccess);
    comm = std::make_unique<StagedCommunicator>(std::move(comm), timeout);
  }
  return ranks;
}

struct NcclFactory : CommunicatorTraits {
  static int MaxRanks() { return comm::MaxRanks(); }
  static constexpr bool kSeesTensorsThatDiffer = false;
  static constexpr bool kPeersHearOfTheEnd = false;
  static Ranks MakeGroup(int size, absl::Duration timeout) {
    return comm::MakeGroup(size, timeout);
  }
};
INSTANTIATE_TYPED_TEST_SUITE_P(Nccl, CommunicatorContract, NcclFactory);

TensorView View(std::vector<float>& values) {
  return {values.data(), DType::kFloat32, 1, static_cast<int64_t>(values.size())};
}

// Each rank's summands; all ranks of a group sum them and then hold the result.
using Summands = std::vector<std::vector<float>>;

void Sum(Ranks& ranks, Summands& values) {
  OnEveryRank(static_cast<int>(ranks.size()), [&](int rank) {
    const auto r = static_cast<size_t>(rank);
    ASSERT_OK(ranks[r]->AllReduceSum(View(values[r]), {}));
  });
}

#define NEED_DEVICES(count) \
  if (MaxRanks() < (count)) \
  GTEST_SKIP() << "needs " << (count) << " devices, this machine has " << Devices()

class NcclCommunicatorTest : public ::testing::Test {
 protected:
  const unsigned seed_ = std::random_device()();
  ::testing::ScopedTrace trace_{__FILE__, __LINE__, ::testing::Message() << "seed " << seed_};
  std::mt19937 random_{seed_};
};

TEST_F(NcclCommunicatorTest, SumsOfIntegersAreExactAtAnySize) {
  NEED_DEVICES(2);
  Ranks ranks = MakeGroup(2);
  // Around what NCCL moves as one word, line, slice or chunk.
  for (const size_t count : {1UL, 3UL, 4UL, 31UL, 33UL, 1023UL, 4097UL, 131'073UL, 1'048'577UL}) {
    std::uniform_int_distribution<int> number(-(1 << 20), 1 << 20);  // sums fit 24 bits
    Summands values(ranks.size(), std::vector<float>(count));
    std::vector<int> expected(count);
    for (auto& summands : values) {
      for (size_t i = 0; i < count; ++i) {
        const int n = number(random_);
        summands[i] = static_cast<float>(n);
        expected[i] += n;
      }
    }
    Sum(ranks, values);
    for (const auto& sums : values) {
      for (size_t i = 0; i < count; ++i) {
        ASSERT_EQ(sums[i], static_cast<float>(expected[i])) << i << " of " << count;
      }
    }
  }
}

TEST_F(NcclCommunicatorTest, SumsHaveTheSameBitsOnEveryRankAndInAPairThoseOfLocal) {
  NEED_DEVICES(2);
  for (int size = 2; size <= std::min(MaxRanks(), 4); ++size) {
    Ranks nccl = MakeGroup(size);
    Ranks local = MakeLocalGroup(size);
    for (const size_t count : {1UL, 1000UL, 65'537UL, 2'100'001UL}) {
      std::uniform_int_distribution<int> exponent(-20, 20);
      std::uniform_real_distribution<float> mantissa(-1, 1);
      Summands values(static_cast<size_t>(size), std::vector<float>(count));
      for (auto& numbers : values) {
        for (float& number : numbers) number = std::ldexp(mantissa(random_), exponent(random_));
      }
      Summands expected = values;
      Sum(local, expected);
      Sum(nccl, values);
      const std::vector<float>& oracle = size == 2 ? expected[0] : values[0];
      for (const auto& numbers : values) {
        EXPECT_EQ(std::memcmp(numbers.data(), oracle.data(), count * sizeof(float)), 0)
            << size << " ranks, " << count << " elements";
      }
    }
  }
}

// A pair's sum of bf16 is the exact one, rounded once.
TEST_F(NcclCommunicatorTest, SumsOfBf16AreRoundedToTheNearest) {
  NEED_DEVICES(2);
  Ranks ranks = MakeGroup(2);
  for (const size_t count : {1UL, 7UL, 3584UL, 1'000'003UL}) {
    std::uniform_int_distribution<int> exponent(-12, 12);
    std::uniform_real_distribution<float> mantissa(-1, 1);
    std::vector<std::vector<uint16_t>> values(2, std::vector<uint16_t>(count));
    std::vector<uint16_t> expected(count);
    for (size_t i = 0; i < count; ++i) {
      for (auto& numbers : values) {
        numbers[i] = FloatToBFloat16(std::ldexp(mantissa(random_), exponent(random_)));
      }
      expected[i] = FloatToBFloat16(BFloat16ToFloat(values[0][i]) + BFloat16ToFloat(values[1][i]));
    }
    OnEveryRank(2, [&](int rank) {
      const auto r = static_cast<size_t>(rank);
      const TensorView view{values[r].data(), DType::kBFloat16, 1, static_cast<int64_t>(count)};
      ASSERT_OK(ranks[r]->AllReduceSum(view, {}));
    });
    EXPECT_EQ(values[0], expected) << count << " elements";
    EXPECT_EQ(values[1], expected) << count << " elements";
  }
}

TEST_F(NcclCommunicatorTest, AGroupOfOneSumsToItself) {
  NEED_DEVICES(1);
  Ranks ranks = MakeGroup(1);
  std::vector<float> values = {1, 2, 3};
  EXPECT_OK(ranks[0]->AllReduceSum(View(values), {}));
  EXPECT_OK(ranks[0]->Broadcast(View(values), 0, {}));
  EXPECT_EQ(values, (std::vector<float>{1, 2, 3}));
  EXPECT_OK(ranks[0]->Poll());
}

// The kernel is on the stream and waits: only Abort of this rank ends it.
TEST_F(NcclCommunicatorTest, AbortEndsAStreamThatStandsStill) {
  NEED_DEVICES(2);
  Ranks ranks = MakeGroup(2);
  Summands values(2, std::vector<float>(1000, 1));
  Sum(ranks, values);  // connected
  std::thread waiting([&] {
    EXPECT_THAT(ranks[0]->AllReduceSum(View(values[0]), {}),
                StatusIs(absl::StatusCode::kUnavailable, HasSubstr("rank 0 aborted")));
  });
  absl::SleepFor(absl::Milliseconds(200));
  EXPECT_OK(ranks[0]->Poll());  // nothing is wrong with a peer that is late
  const absl::Time aborted = absl::Now();
  ranks[0]->Abort();
  waiting.join();
  EXPECT_LT(absl::Now() - aborted, absl::Seconds(5));
  EXPECT_OK(ranks[1]->Poll());  // and does not hear of it
}

TEST_F(NcclCommunicatorTest, SeveralGroupsShareAStore) {
  NEED_DEVICES(2);
  MemoryRendezvous store;
  OnEveryRank(2, [&](int rank) {
    for (const char* group : {"pipeline", "tensor"}) {
      auto made = MakeNcclCommunicator(
          {.rank = rank, .size = 2, .device = DeviceOf(rank), .group = group}, store);
      ASSERT_OK(made);
      StagedCommunicator comm(*std::move(made), absl::Seconds(20));
      std::vector<float> values = {1};
      EXPECT_OK(comm.AllReduceSum(View(values), {}));
      EXPECT_EQ(values[0], 2);
      EXPECT_OK(comm.Broadcast(View(values), 0, {}));  // both are through before one leaves
    }
  });
}

TEST_F(NcclCommunicatorTest, RefusesTensorsThatAreNone) {
  NEED_DEVICES(2);
  Ranks ranks = MakeBareGroup(2);
  float value = 0;
  for (const TensorView& tensor :
       {TensorView{nullptr, DType::kFloat32, 1, 1}, TensorView{&value, DType::kFloat32, -1, 1}}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ranks[0]->AllReduceSum(tensor, {})));
    EXPECT_TRUE(absl::IsInvalidArgument(ranks[0]->Send(tensor, 1, {})));
  }
  EXPECT_OK(ranks[0]->Poll());
}

TEST_F(NcclCommunicatorTest, ReportsPeersThatDoNotCome) {
  NEED_DEVICES(1);
  MemoryRendezvous store;
  const absl::Time begin = absl::Now();
  EXPECT_THAT(MakeNcclCommunicator(
                  {.rank = 0, .size = 2, .connect_timeout = absl::Milliseconds(500)}, store)
                  .status(),
              StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("rank 0 of 2")));
  EXPECT_LT(absl::Now() - begin, absl::Seconds(10));
}

TEST_F(NcclCommunicatorTest, ReportsARankZeroThatDoesNotCome) {
  NEED_DEVICES(1);
  MemoryRendezvous store;
  EXPECT_TRUE(absl::IsDeadlineExceeded(
      MakeNcclCommunicator({.rank = 1, .size = 2, .connect_timeout = absl::Milliseconds(20)}, store)
          .status()));
}

TEST_F(NcclCommunicatorTest, RefusesPlacesAndPeersThatCannotBe) {
  MemoryRendezvous store;
  EXPECT_THAT(MakeNcclCommunicator({.rank = 2, .size = 2}, store).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("rank 2 of a group of 2")));
  NEED_DEVICES(1);
  ASSERT_OK(store.Set("world/nccl", "something else"));
  EXPECT_THAT(MakeNcclCommunicator({.rank = 1, .size = 2}, store).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("14 bytes")));
}

TEST_F(NcclCommunicatorTest, WithoutADeviceSaysWhatCudaSays) {
  if (Devices() > 0) GTEST_SKIP() << "this machine has " << Devices() << " devices";
  MemoryRendezvous store;
  EXPECT_THAT(MakeNcclCommunicator({.rank = 0, .size = 1}, store).status(),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("CUDA device 0: ")));
}

TEST_F(NcclCommunicatorTest, SaysWhichDeviceThereIsNot) {
  NEED_DEVICES(1);
  MemoryRendezvous store;
  EXPECT_THAT(MakeNcclCommunicator({.rank = 0, .size = 1, .device = 99}, store).status(),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("CUDA device 99: ")));
}

}  // namespace
}  // namespace longhaul::worker::comm
