#include "worker/comm/gloo_communicator.h"

#include <cmath>
#include <csignal>
#include <cstring>
#include <random>

#include "common/logging.h"
#include "tests/testing/memory_rendezvous.h"
#include "tests/unit/worker/comm/communicator_contract.h"
#include "worker/comm/local_communicator.h"

namespace longhaul::worker::comm {
namespace {

using Ranks = std::vector<std::unique_ptr<Communicator>>;
using ::longhaul::testing::MemoryRendezvous;
using ::longhaul::testing::StatusIs;
using ::testing::HasSubstr;

// Ranks as threads; `options` but for rank and size.
Ranks MakeGlooGroup(int size, GlooCommunicatorOptions options) {
  signal(SIGPIPE, SIG_IGN);
  MemoryRendezvous store;
  Ranks ranks(static_cast<size_t>(size));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&ranks, &store, options, rank, size]() mutable {
      options.rank = rank;
      options.size = size;
      auto made = MakeGlooCommunicator(options, store);
      CHECK(made.ok()) << made.status();
      ranks[static_cast<size_t>(rank)] = *std::move(made);
    });
  }
  for (std::thread& thread : threads) thread.join();
  return ranks;
}

struct GlooFactory : CommunicatorTraits {
  static Ranks MakeGroup(int size, absl::Duration timeout) {
    return MakeGlooGroup(size, {.timeout = timeout});
  }
};
INSTANTIATE_TYPED_TEST_SUITE_P(Gloo, CommunicatorContract, GlooFactory);

void OnEveryRank(Ranks& ranks, const std::function<void(Communicator&)>& work) {
  std::vector<std::thread> threads;
  for (auto& rank : ranks) threads.emplace_back([&work, &rank] { work(*rank); });
  for (std::thread& thread : threads) thread.join();
}

TensorView View(std::vector<float>& values) {
  return {values.data(), DType::kFloat32, 1, static_cast<int64_t>(values.size())};
}

TEST(GlooCommunicator, SumsHaveTheBitsOfLocalOnEveryRank) {
  const unsigned seed = std::random_device()();
  SCOPED_TRACE(::testing::Message() << "seed " << seed);
  for (const int size : {2, 3, 4}) {
    Ranks gloo = MakeGlooGroup(size, {});
    Ranks local = MakeLocalGroup(size);
    // Small, on both sides of a message's limit, and across segments.
    for (const size_t count : {1UL, 1000UL, 16'384UL, 16'385UL, 2'100'001UL}) {
      if (count > 1'000'000 && size != 3) continue;  // once is enough
      std::mt19937 random(seed);
      std::uniform_int_distribution<int> exponent(-20, 20);
      std::uniform_real_distribution<float> mantissa(-1, 1);
      std::vector<std::vector<float>> values(static_cast<size_t>(size), std::vector<float>(count));
      for (auto& numbers : values) {
        for (float& number : numbers) number = std::ldexp(mantissa(random), exponent(random));
      }
      std::vector<std::vector<float>> expected = values;
      OnEveryRank(local, [&](Communicator& comm) {
        ASSERT_OK(comm.AllReduceSum(View(expected[static_cast<size_t>(comm.rank())]), {}));
      });
      OnEveryRank(gloo, [&](Communicator& comm) {
        ASSERT_OK(comm.AllReduceSum(View(values[static_cast<size_t>(comm.rank())]), {}));
      });
      for (const auto& numbers : values) {
        EXPECT_EQ(std::memcmp(numbers.data(), expected[0].data(), count * sizeof(float)), 0)
            << size << " ranks, " << count << " elements";
      }
    }
  }
}

TEST(GlooCommunicator, AnIdleGroupHearsOfAPeerThatLeft) {
  Ranks ranks = MakeGlooGroup(3, {});
  ranks[1].reset();
  for (const size_t other : {0, 2}) {
    const absl::Time deadline = absl::Now() + absl::Seconds(5);
    while (ranks[other]->Poll().ok() && absl::Now() < deadline) {
      absl::SleepFor(absl::Milliseconds(1));
    }
    EXPECT_THAT(ranks[other]->Poll(), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("rank")));
  }
}

TEST(GlooCommunicator, WhatWasSentBeforeLeavingArrives) {
  for (int i = 0; i < 5; ++i) {
    Ranks ranks = MakeGlooGroup(2, {});
    std::thread sender([&] {
      std::vector<float> values(20'000, 3);
      EXPECT_OK(ranks[0]->Send(View(values), 1, {}));
      ranks[0].reset();
    });
    std::vector<float> values(20'000);
    EXPECT_OK(ranks[1]->Recv(View(values), 0, {}));
    EXPECT_EQ(values, std::vector<float>(20'000, 3));
    sender.join();
  }
}

TEST(GlooCommunicator, ASumIsCompleteThoughAPeerLeavesRightAfterIt) {
  for (const size_t count : {10UL, 50'000UL}) {
    for (int i = 0; i < 10; ++i) {
      Ranks ranks = MakeGlooGroup(3, {});
      std::vector<std::thread> threads;
      for (auto& rank : ranks) {
        threads.emplace_back([&rank, count] {
          std::vector<float> values(count, 1);
          EXPECT_OK(rank->AllReduceSum(View(values), {}));
          EXPECT_EQ(values, std::vector<float>(count, 3));
          rank.reset();
        });
      }
      for (std::thread& thread : threads) thread.join();
    }
  }
}

TEST(GlooCommunicator, AbortEndsALargeTransferOnBothSides) {
  Ranks ranks = MakeGlooGroup(2, {});
  absl::Time aborted;
  std::thread aborter([&] {
    absl::SleepFor(absl::Milliseconds(100));  // some transfers are done by then, one is under way
    aborted = absl::Now();
    ranks[1]->Abort();
  });
  OnEveryRank(ranks, [](Communicator& comm) {
    std::vector<float> values(8 << 20);
    absl::Status status;
    while (status.ok()) {
      status = comm.rank() == 0 ? comm.Send(View(values), 1, {}) : comm.Recv(View(values), 0, {});
    }
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
    EXPECT_EQ(comm.Poll(), status);
  });
  aborter.join();
  EXPECT_LT(absl::Now() - aborted, absl::Seconds(5));
}

TEST(GlooCommunicator, CallsThatDoNotMatchPoison) {
  Ranks ranks = MakeGlooGroup(2, {.timeout = absl::Seconds(5)});
  OnEveryRank(ranks, [](Communicator& comm) {
    std::vector<float> values(4);
    const absl::Status status =
        comm.rank() == 0 ? comm.Recv(View(values), 1, {}) : comm.AllReduceSum(View(values), {});
    // Who reads the other's header says what is wrong; the other may only hear the end.
    EXPECT_TRUE(absl::IsInvalidArgument(status) ||
                (comm.rank() == 1 && absl::IsUnavailable(status)))
        << status;
    EXPECT_TRUE(absl::IsUnavailable(comm.Recv(View(values), 1 - comm.rank(), {})));
  });
}

TEST(GlooCommunicator, SeveralGroupsShareAStore) {
  signal(SIGPIPE, SIG_IGN);
  MemoryRendezvous store;
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < 2; ++rank) {
    ranks.emplace_back([&store, rank] {
      for (const char* group : {"pipeline", "tensor"}) {
        auto comm = MakeGlooCommunicator({.rank = rank, .size = 2, .group = group}, store);
        ASSERT_OK(comm);
        std::vector<float> values = {1};
        EXPECT_OK((*comm)->AllReduceSum(View(values), {}));
        EXPECT_EQ(values[0], 2);
      }
    });
  }
  for (std::thread& rank : ranks) rank.join();
}

TEST(GlooCommunicator, BindsToAnInterface) {
  Ranks ranks = MakeGlooGroup(2, {.host = "", .interface = "lo"});
  OnEveryRank(ranks, [](Communicator& comm) {
    std::vector<float> values = {1};
    EXPECT_OK(comm.AllReduceSum(View(values), {}));
  });
}

TEST(GlooCommunicator, ConnectsByIpv6) {
  MemoryRendezvous alone;
  signal(SIGPIPE, SIG_IGN);
  const auto probe = MakeGlooCommunicator(
      {.rank = 0, .size = 2, .host = "::1", .connect_timeout = absl::Milliseconds(10)}, alone);
  if (absl::IsInvalidArgument(probe.status())) GTEST_SKIP() << "no IPv6 here: " << probe.status();
  Ranks ranks = MakeGlooGroup(2, {.host = "::1"});
  OnEveryRank(ranks, [](Communicator& comm) {
    std::vector<float> values = {1};
    EXPECT_OK(comm.AllReduceSum(View(values), {}));
  });
}

TEST(GlooCommunicator, RefusesWhatCannotBeBound) {
  MemoryRendezvous store;
  signal(SIGPIPE, SIG_IGN);
  // 192.0.2.0/24 is nobody's (RFC 5737).
  EXPECT_THAT(MakeGlooCommunicator({.rank = 0, .size = 2, .host = "192.0.2.1"}, store),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("host `192.0.2.1`")));
  EXPECT_THAT(MakeGlooCommunicator({.rank = 0, .size = 2, .interface = "nope0"}, store),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("interface `nope0`")));
  EXPECT_THAT(MakeGlooCommunicator({.rank = 0, .size = 2, .host = "no host"}, store),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("`no host`")));
  EXPECT_THAT(MakeGlooCommunicator({.rank = 0, .size = 2, .host = "0.0.0.0"}, store),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("`0.0.0.0`")));
  EXPECT_THAT(MakeGlooCommunicator({.rank = 2, .size = 2}, store),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("rank 2 of a group of 2")));
}

TEST(GlooCommunicator, ReportsAPeerThatDoesNotCome) {
  MemoryRendezvous store;
  signal(SIGPIPE, SIG_IGN);
  const GlooCommunicatorOptions options = {
      .rank = 0, .size = 2, .connect_timeout = absl::Milliseconds(50)};
  EXPECT_TRUE(absl::IsDeadlineExceeded(MakeGlooCommunicator(options, store).status()));
}

TEST(GlooCommunicator, ReportsAPeerThatPublishesAndDies) {
  MemoryRendezvous store;
  signal(SIGPIPE, SIG_IGN);
  // Leaves addresses behind, of which nothing is true any more.
  const GlooCommunicatorOptions leaver = {
      .rank = 1, .size = 2, .connect_timeout = absl::Milliseconds(50)};
  EXPECT_FALSE(MakeGlooCommunicator(leaver, store).ok());
  const GlooCommunicatorOptions options = {
      .rank = 0, .size = 2, .connect_timeout = absl::Milliseconds(200)};
  const absl::Time begin = absl::Now();
  EXPECT_TRUE(absl::IsUnavailable(MakeGlooCommunicator(options, store).status()));
  EXPECT_LT(absl::Now() - begin, absl::Seconds(5));
}

TEST(GlooCommunicator, RefusesAPeerOfAnotherKind) {
  MemoryRendezvous store;
  signal(SIGPIPE, SIG_IGN);
  ASSERT_OK(store.Set("world/gloo/1", "something else"));
  EXPECT_TRUE(
      absl::IsInvalidArgument(MakeGlooCommunicator({.rank = 0, .size = 2}, store).status()));
}

TEST(GlooCommunicator, RefusesAProcessThatALostPeerWouldEnd) {
  MemoryRendezvous store;
  signal(SIGPIPE, SIG_DFL);
  EXPECT_THAT(MakeGlooCommunicator({.rank = 0, .size = 2}, store),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("SIGPIPE")));
  signal(SIGPIPE, SIG_IGN);
}

}  // namespace
}  // namespace longhaul::worker::comm
