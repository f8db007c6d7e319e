#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <iostream>
#include <limits>
#include <random>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/parallel.h"
#include "tests/testing/tolerances.h"

namespace longhaul::testing {

// A generator with a fresh seed, which it prints; LONGHAUL_TEST_SEED repeats a run.
inline std::mt19937_64 FreshRandom() {
  const char* fixed = std::getenv("LONGHAUL_TEST_SEED");
  const uint64_t seed =
      fixed != nullptr ? std::strtoull(fixed, nullptr, 10) : std::random_device()();
  std::cout << "LONGHAUL_TEST_SEED=" << seed << "\n";
  return std::mt19937_64(seed);
}

inline std::vector<float> Normal(std::mt19937_64& random, int64_t size, float sigma = 1) {
  std::normal_distribution<float> normal(0, sigma);
  std::vector<float> values(size);
  for (float& value : values) value = normal(random);
  return values;
}

// What an output holds before the call: an element left unwritten shows.
inline std::vector<float> Poisoned(int64_t size) {
  return std::vector<float>(size, std::numeric_limits<float>::quiet_NaN());
}

inline int64_t Uniform(std::mt19937_64& random, int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(random);
}

inline ::testing::AssertionResult Near(const std::vector<float>& actual,
                                       const std::vector<float>& expected,
                                       const Tolerance& tolerance) {
  if (actual.size() != expected.size()) {
    return ::testing::AssertionFailure() << actual.size() << " elements, not " << expected.size();
  }
  double max_abs = 0;
  double max_rel = 0;
  int64_t first_bad = -1;
  for (size_t i = 0; i < actual.size(); ++i) {
    const double difference = std::abs(double{actual[i]} - expected[i]);
    max_abs = std::max(max_abs, difference);
    max_rel = std::max(max_rel, difference / std::abs(double{expected[i]}));
    const bool good = difference <= tolerance.abs + tolerance.rel * std::abs(double{expected[i]});
    if (!good && first_bad < 0) first_bad = static_cast<int64_t>(i);  // a NaN is not good
  }
  if (first_bad < 0) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure()
         << "max abs " << max_abs << ", max rel " << max_rel << ", first bad at " << first_bad
         << ": " << actual[first_bad] << ", not " << expected[first_bad];
}

inline ::testing::AssertionResult SameBits(const float* actual, const float* expected,
                                           int64_t size) {
  for (int64_t i = 0; i < size; ++i) {
    if (std::memcmp(actual + i, expected + i, sizeof(float)) != 0) {
      return ::testing::AssertionFailure()
             << "first different bits at " << i << ": " << actual[i] << ", not " << expected[i];
    }
  }
  return ::testing::AssertionSuccess();
}

inline ::testing::AssertionResult SameBits(const std::vector<float>& actual,
                                           const std::vector<float>& expected) {
  if (actual.size() != expected.size()) {
    return ::testing::AssertionFailure() << actual.size() << " elements, not " << expected.size();
  }
  return SameBits(actual.data(), expected.data(), static_cast<int64_t>(actual.size()));
}

// Real threads, started for each Run.
class ThreadParallel final : public kernels::Parallel {
 public:
  explicit ThreadParallel(int num_threads) : num_threads_(num_threads) {}
  int num_threads() const override { return num_threads_; }
  void Run(int64_t num_tasks, const std::function<void(int64_t)>& task) override {
    std::atomic<int64_t> next = 0;
    const auto work = [&] {
      for (int64_t i = next++; i < num_tasks; i = next++) task(i);
    };
    std::vector<std::thread> threads;
    for (int i = 1; i < num_threads_; ++i) threads.emplace_back(work);
    work();
    for (std::thread& thread : threads) thread.join();
  }

 private:
  const int num_threads_;
};

}  // namespace longhaul::testing
