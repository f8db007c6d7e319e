#include "common/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>

namespace longhaul {
namespace {

TEST(ThreadPool, RunsEachTaskOnceForAnyNumberOfThreadsAndTasks) {
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.num_threads(), threads);
    for (const int64_t tasks : {0, 1, 2, 3, 64, 1000}) {
      std::vector<std::atomic<int>> runs(static_cast<size_t>(tasks));
      pool.Run(tasks, [&runs](int64_t i) { ++runs[static_cast<size_t>(i)]; });
      for (const auto& count : runs) EXPECT_EQ(count.load(), 1);
    }
  }
}

TEST(ThreadPool, WhatTasksWroteIsSeenAfterRun) {
  ThreadPool pool(4);
  for (int round = 0; round < 200; ++round) {
    std::vector<int> plain(64, 0);  // not atomic: ThreadSanitizer checks the hand-over
    pool.Run(64, [&plain, round](int64_t i) { plain[static_cast<size_t>(i)] = round; });
    for (const int value : plain) ASSERT_EQ(value, round);
  }
}

TEST(ThreadPool, ZeroMeansTheCoresOfThisProcess) { EXPECT_GE(ThreadPool(0).num_threads(), 1); }

}  // namespace
}  // namespace longhaul
