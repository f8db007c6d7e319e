#include "common/queue.h"

#include <gtest/gtest.h>

#include <thread>

#include "absl/time/clock.h"
#include "tests/testing/status_matchers.h"

namespace longhaul {
namespace {

using ::testing::HasSubstr;
using testing::StatusIs;

TEST(BoundedQueue, KeepsOrder) {
  BoundedQueue<int> queue(4);
  EXPECT_OK(queue.Push(1));
  EXPECT_OK(queue.Push(2));
  EXPECT_EQ(queue.Pop(absl::InfiniteFuture()), 1);
  EXPECT_EQ(queue.Pop(absl::InfiniteFuture()), 2);
}

TEST(BoundedQueue, RefusesWhenFullAndSaysTheLimit) {
  BoundedQueue<int> queue(1);
  EXPECT_OK(queue.Push(1));
  EXPECT_THAT(queue.Push(2), StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("limit 1")));
  EXPECT_EQ(queue.size(), 1u);
}

TEST(BoundedQueue, PopEndsAtTheDeadline) {
  BoundedQueue<int> queue(1);
  EXPECT_EQ(queue.Pop(absl::Now() + absl::Milliseconds(5)), std::nullopt);
  EXPECT_EQ(queue.Pop(absl::InfinitePast()), std::nullopt);
}

TEST(BoundedQueue, ASpinningPopTakesWhatComesAndThenWaits) {
  constexpr absl::Duration kSpin = absl::Milliseconds(1);
  BoundedQueue<int> queue(4);
  EXPECT_OK(queue.Push(1));
  EXPECT_OK(queue.Push(2));
  EXPECT_EQ(queue.Pop(absl::InfiniteFuture(), absl::Hours(1)), 1);
  EXPECT_EQ(queue.Pop(absl::InfiniteFuture(), absl::Hours(1)), 2);
  EXPECT_EQ(queue.Pop(absl::Now() + absl::Milliseconds(3), kSpin), std::nullopt);
  std::thread producer([&queue] {
    EXPECT_OK(queue.Push(3));  // while the other spins
    absl::SleepFor(absl::Milliseconds(5));
    EXPECT_OK(queue.Push(4));  // when it has given up
  });
  EXPECT_EQ(queue.Pop(absl::InfiniteFuture(), absl::Hours(1)), 3);
  EXPECT_EQ(queue.Pop(absl::InfiniteFuture(), kSpin), 4);
  producer.join();
}

TEST(BoundedQueue, CloseEndsASpin) {
  BoundedQueue<int> queue(1);
  EXPECT_OK(queue.Push(1));
  std::thread closer([&queue] { queue.Close(); });
  EXPECT_EQ(queue.Pop(absl::InfiniteFuture(), absl::Hours(1)), 1);
  EXPECT_EQ(queue.Pop(absl::InfiniteFuture(), absl::Hours(1)), std::nullopt);
  closer.join();
}

TEST(BoundedQueue, CloseDrainsThenEnds) {
  BoundedQueue<int> queue(2);
  EXPECT_OK(queue.Push(1));
  queue.Close();
  EXPECT_THAT(queue.Push(2), StatusIs(absl::StatusCode::kCancelled, HasSubstr("closed")));
  EXPECT_EQ(queue.Pop(absl::InfiniteFuture()), 1);
  EXPECT_EQ(queue.Pop(absl::InfiniteFuture()), std::nullopt);
}

TEST(BoundedQueue, CloseWakesAWaitingPop) {
  BoundedQueue<int> queue(1);
  std::thread closer([&queue] { queue.Close(); });
  EXPECT_EQ(queue.Pop(absl::InfiniteFuture()), std::nullopt);
  closer.join();
}

TEST(BoundedQueue, LosesNothingBetweenManyThreads) {
  constexpr int kProducers = 4;
  constexpr int kItems = 2000;
  BoundedQueue<int> queue(kProducers * kItems);
  std::vector<std::thread> producers;
  for (int p = 0; p < kProducers; ++p) {
    producers.emplace_back([&queue] {
      for (int i = 1; i <= kItems; ++i) EXPECT_OK(queue.Push(i));
    });
  }
  int64_t sum = 0;
  for (int i = 0; i < kProducers * kItems; ++i) sum += *queue.Pop(absl::InfiniteFuture());
  for (std::thread& producer : producers) producer.join();
  EXPECT_EQ(sum, int64_t{kProducers} * kItems * (kItems + 1) / 2);
}

}  // namespace
}  // namespace longhaul
