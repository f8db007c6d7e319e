#include "router/admission_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "router/error_detail.h"
#include "tests/testing/status_matchers.h"

namespace longhaul::router {
namespace {

using longhaul::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

const absl::Time kNow = absl::FromUnixSeconds(1'000'000);
const auto kAny = [](const WaitingExecution&) { return true; };

WaitingExecution Waiting(uint64_t id, std::string tenant = "", int32_t priority = 0) {
  return {.key = {.request = {0, id}}, .tenant = std::move(tenant), .priority = priority};
}

class AdmissionQueueTest : public ::testing::Test {
 protected:
  void Admit(WaitingExecution execution) {
    ASSERT_OK(queue_.Admit({std::move(execution)}, {}, kNow));
  }
  std::vector<uint64_t> TakeAll() {
    std::vector<uint64_t> ids;
    while (const auto taken = queue_.TakeFirst(kAny)) ids.push_back(taken->key.request.low);
    return ids;
  }

  AdmissionQueue queue_{100};
};

TEST_F(AdmissionQueueTest, OrdersByPriorityThenArrival) {
  Admit(Waiting(1));
  Admit(Waiting(2, "", 5));
  Admit(Waiting(3));
  Admit(Waiting(4, "", -5));
  Admit(Waiting(5, "", 5));
  EXPECT_THAT(TakeAll(), ElementsAre(2, 5, 1, 3, 4));
}

TEST_F(AdmissionQueueTest, AnEarlierDeadlineGoesFirstWithinATenant) {
  Admit(Waiting(1));
  WaitingExecution urgent = Waiting(2);
  urgent.deadline = kNow + absl::Seconds(10);
  WaitingExecution more_urgent = Waiting(3);
  more_urgent.deadline = kNow + absl::Seconds(5);
  Admit(urgent);
  Admit(more_urgent);
  EXPECT_THAT(TakeAll(), ElementsAre(3, 2, 1));
}

TEST_F(AdmissionQueueTest, TenantsTakeTurnsHoweverMuchOneSends) {
  for (uint64_t id = 1; id <= 4; ++id) Admit(Waiting(id, "greedy"));
  Admit(Waiting(11, "modest"));
  Admit(Waiting(12, "modest"));
  EXPECT_THAT(TakeAll(), ElementsAre(1, 11, 2, 12, 3, 4));
}

TEST_F(AdmissionQueueTest, ALongJobCountsForItsPredictedSeconds) {
  WaitingExecution heavy = Waiting(1, "a");
  heavy.predicted_seconds = 10;
  Admit(heavy);
  Admit(Waiting(2, "a"));
  for (uint64_t id = 11; id <= 13; ++id) {
    WaitingExecution light = Waiting(id, "b");
    light.predicted_seconds = 3;
    Admit(light);
  }
  EXPECT_THAT(TakeAll(), ElementsAre(1, 11, 12, 13, 2));
}

TEST_F(AdmissionQueueTest, IdlenessEarnsNoCredit) {
  for (uint64_t id = 1; id <= 6; ++id) {
    WaitingExecution execution = Waiting(id, "busy");
    execution.predicted_seconds = 1;
    Admit(execution);
  }
  for (int i = 0; i < 3; ++i) queue_.TakeFirst(kAny);
  // Comes late: it gets its turn, not the three seconds that it did not ask for.
  for (uint64_t id = 11; id <= 13; ++id) {
    WaitingExecution execution = Waiting(id, "late");
    execution.predicted_seconds = 1;
    Admit(execution);
  }
  EXPECT_THAT(TakeAll(), ElementsAre(4, 11, 5, 12, 6, 13));
}

TEST_F(AdmissionQueueTest, WhatDoesNotFitIsPassedOverAndKeepsItsPlace) {
  Admit(Waiting(1));
  Admit(Waiting(2));
  const auto not_one = [](const WaitingExecution& w) { return w.key.request.low != 1; };
  EXPECT_EQ(queue_.TakeFirst(not_one)->key.request.low, 2u);
  EXPECT_FALSE(queue_.TakeFirst(not_one).has_value());
  EXPECT_THAT(TakeAll(), ElementsAre(1));
}

TEST_F(AdmissionQueueTest, WhatIsPutBackStandsWhereItStood) {
  for (uint64_t id = 1; id <= 3; ++id) Admit(Waiting(id));
  const auto first = queue_.TakeFirst(kAny);
  queue_.PutBack(*first);
  EXPECT_THAT(TakeAll(), ElementsAre(1, 2, 3));
}

TEST_F(AdmissionQueueTest, RemovesOnlyWhatWaits) {
  Admit(Waiting(1));
  Admit(Waiting(2));
  EXPECT_TRUE(queue_.Remove({.request = {0, 1}}));
  EXPECT_FALSE(queue_.Remove({.request = {0, 1}}));
  EXPECT_EQ(queue_.size(), 1u);
  EXPECT_THAT(TakeAll(), ElementsAre(2));
}

TEST_F(AdmissionQueueTest, TakesAllChoicesOfARequestOrNone) {
  AdmissionQueue queue(3);
  ASSERT_OK(queue.Admit({Waiting(1), Waiting(2)}, {}, kNow));
  const absl::Status full = queue.Admit({Waiting(3), Waiting(4)}, {}, kNow);
  EXPECT_THAT(full, StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("limit 3")));
  EXPECT_GE(DetailOf(full).retry_after_seconds.value_or(0), 1.0);
  EXPECT_EQ(queue.size(), 2u);
  EXPECT_OK(queue.Admit({Waiting(5)}, {}, kNow));
}

TEST_F(AdmissionQueueTest, ShedsWhatCannotMeetItsDeadline) {
  const ServiceRate rate{.num_groups = 2, .least_wait_seconds = 4};
  WaitingExecution ahead = Waiting(1);
  ahead.predicted_seconds = 6;
  Admit(ahead);
  // Wait 4 + 6 / 2 = 7 s, prefill 8 s.
  WaitingExecution execution = Waiting(2);
  execution.predicted_seconds = 8;
  execution.deadline = kNow + absl::Seconds(14.5);
  const absl::Status shed = queue_.Admit({execution}, rate, kNow);
  EXPECT_THAT(shed, StatusIs(absl::StatusCode::kResourceExhausted,
                             HasSubstr("predicted wait of 7.000 s and prefill of 8.000 s")));
  EXPECT_EQ(DetailOf(shed).retry_after_seconds, 1.0);  // 0.5 s late, but no sooner than a second
  execution.deadline = kNow + absl::Seconds(15.5);
  EXPECT_OK(queue_.Admit({execution}, rate, kNow));
}

TEST_F(AdmissionQueueTest, AShortOneDoesNotWaitForLongOnes) {
  WaitingExecution ahead = Waiting(1);
  ahead.predicted_seconds = 1000;
  Admit(ahead);
  EXPECT_EQ(queue_.PredictedWaitSeconds(0, 0.5, {.num_groups = 1}), 0.5);
  EXPECT_EQ(queue_.PredictedWaitSeconds(0, 5000, {.num_groups = 1}), 1000);
  EXPECT_EQ(queue_.PredictedWaitSeconds(0, /*unknown*/ 0, {.num_groups = 1}), std::nullopt);
}

TEST_F(AdmissionQueueTest, APrefillLongerThanTheDeadlineGetsNoRetryHint) {
  WaitingExecution execution = Waiting(1);
  execution.predicted_seconds = 20;
  execution.deadline = kNow + absl::Seconds(10);
  const absl::Status shed = queue_.Admit({execution}, {.num_groups = 1}, kNow);
  EXPECT_EQ(shed.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_FALSE(DetailOf(shed).retry_after_seconds.has_value());
}

TEST_F(AdmissionQueueTest, WithoutGroupsNothingIsPredicted) {
  WaitingExecution execution = Waiting(1);
  execution.predicted_seconds = 20;
  execution.deadline = kNow + absl::Seconds(10);
  EXPECT_OK(queue_.Admit({execution}, {.num_groups = 0}, kNow));
  EXPECT_FALSE(queue_.PredictedWaitSeconds(0, 1, {}).has_value());
}

TEST_F(AdmissionQueueTest, CountsOnlyWhatWouldGoFirst) {
  Admit(Waiting(1, "", 5));
  Admit(Waiting(2, "", 0));
  Admit(Waiting(3, "", -5));
  EXPECT_EQ(queue_.NumAhead(0), 2u);
  EXPECT_EQ(queue_.NumAhead(6), 0u);
  EXPECT_EQ(queue_.NumAhead(-5), 3u);
}

// Against a model that is a plain list: every execution leaves once, priorities never invert.
TEST_F(AdmissionQueueTest, LosesAndInventsNothingUnderRandomUse) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(::testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  AdmissionQueue queue(50);
  std::map<uint64_t, WaitingExecution> model;
  uint64_t next_id = 1;
  for (int step = 0; step < 5000; ++step) {
    switch (random() % 4) {
      case 0:
      case 1: {
        WaitingExecution execution =
            Waiting(next_id++, std::string(1, static_cast<char>('a' + random() % 5)),
                    static_cast<int32_t>(random() % 3));
        execution.predicted_seconds = static_cast<double>(random() % 10);
        const bool admitted = queue.Admit({execution}, {}, kNow).ok();
        ASSERT_EQ(admitted, model.size() < 50);
        if (admitted) model[execution.key.request.low] = execution;
        break;
      }
      case 2: {
        const auto taken = queue.TakeFirst(kAny);
        ASSERT_EQ(taken.has_value(), !model.empty());
        if (!taken) break;
        int32_t highest = -1;
        for (const auto& [id, execution] : model) highest = std::max(highest, execution.priority);
        ASSERT_EQ(taken->priority, highest);
        if (random() % 3 == 0) {
          queue.PutBack(*taken);
        } else {
          ASSERT_EQ(model.erase(taken->key.request.low), 1u);
        }
        break;
      }
      default: {
        const uint64_t id = random() % next_id;
        ASSERT_EQ(queue.Remove({.request = {0, id}}), model.erase(id) == 1);
      }
    }
    ASSERT_EQ(queue.size(), model.size());
  }
}

}  // namespace
}  // namespace longhaul::router
