// What NCCL's errors become, with the fake of fake_nccl.h.
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "common/logging.h"
#include "tests/testing/memory_rendezvous.h"
#include "tests/testing/status_matchers.h"
#include "tests/unit/worker/comm/fake_nccl.h"
#include "tests/unit/worker/comm/staged_communicator.h"
#include "worker/comm/nccl_communicator.h"

namespace longhaul::worker::comm {
namespace {

using ::longhaul::testing::LiveNcclCommunicators;
using ::longhaul::testing::MemoryRendezvous;
using ::longhaul::testing::SetNcclAsyncResult;
using ::longhaul::testing::StatusIs;
using ::testing::HasSubstr;

class NcclFaultsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto made =
        MakeNcclCommunicator({.rank = 0, .size = 1, .timeout = absl::Milliseconds(50)}, store_);
    ASSERT_OK(made);
    comm_ = std::make_unique<StagedCommunicator>(*std::move(made), absl::Seconds(5));
  }
  void TearDown() override {
    SetNcclAsyncResult(std::nullopt);
    comm_.reset();
    EXPECT_EQ(LiveNcclCommunicators(), 0);
  }
  absl::Status Sum() { return comm_->AllReduceSum({&value_, DType::kFloat32, 1, 1}, {}); }

  float value_ = 1;
  MemoryRendezvous store_;
  std::unique_ptr<StagedCommunicator> comm_;
};

TEST_F(NcclFaultsTest, PollTellsAnErrorAndPoisons) {
  EXPECT_OK(Sum());
  SetNcclAsyncResult(ncclRemoteError);
  const auto unavailable = StatusIs(absl::StatusCode::kUnavailable, HasSubstr("remote error"));
  EXPECT_THAT(comm_->Poll(), unavailable);
  EXPECT_EQ(LiveNcclCommunicators(), 0);  // aborted
  SetNcclAsyncResult(std::nullopt);
  EXPECT_THAT(comm_->Poll(), unavailable);
  EXPECT_THAT(Sum(), unavailable);
}

TEST_F(NcclFaultsTest, ACallThatFailsPoisons) {
  SetNcclAsyncResult(ncclSystemError);
  const auto unavailable =
      StatusIs(absl::StatusCode::kUnavailable, HasSubstr("all-reduce: NCCL: another error"));
  EXPECT_THAT(Sum(), unavailable);
  SetNcclAsyncResult(std::nullopt);
  EXPECT_THAT(comm_->Poll(), unavailable);
}

TEST_F(NcclFaultsTest, ACallThatIsNotEnqueuedInTimePoisons) {
  SetNcclAsyncResult(ncclInProgress);
  EXPECT_OK(comm_->Poll());  // what takes long is no error
  const auto unavailable = StatusIs(absl::StatusCode::kUnavailable, HasSubstr("longer than 50ms"));
  EXPECT_THAT(Sum(), unavailable);
  SetNcclAsyncResult(std::nullopt);
  EXPECT_THAT(Sum(), unavailable);
}

TEST_F(NcclFaultsTest, ConnectingThatFailsLeavesNothingBehind) {
  for (const ncclResult_t result : {ncclInProgress, ncclSystemError}) {
    SetNcclAsyncResult(result);
    MemoryRendezvous store;
    const auto made = MakeNcclCommunicator(
        {.rank = 0, .size = 1, .connect_timeout = absl::Milliseconds(20)}, store);
    EXPECT_EQ(made.status().code(), result == ncclInProgress ? absl::StatusCode::kDeadlineExceeded
                                                             : absl::StatusCode::kUnavailable)
        << made.status();
    EXPECT_EQ(LiveNcclCommunicators(), 1);  // the fixture's
  }
}

// At any moment of a call: with its threads sanitised this proves the lock.
TEST_F(NcclFaultsTest, AbortMayComeAtAnyTime) {
  for (int i = 0; i < 50; ++i) {
    MemoryRendezvous store;
    auto made = MakeNcclCommunicator({.rank = 0, .size = 1}, store);
    ASSERT_OK(made);
    StagedCommunicator comm(*std::move(made), absl::Seconds(5));
    std::thread watch([&comm] {
      while (comm.Poll().ok()) std::this_thread::yield();
    });
    std::thread aborter([&comm, i] {
      absl::SleepFor(absl::Microseconds(20 * i));
      comm.Abort();
    });
    float value = 1;
    absl::Status status;
    while (status.ok()) status = comm.AllReduceSum({&value, DType::kFloat32, 1, 1}, {});
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnavailable, HasSubstr("rank 0 aborted")));
    aborter.join();
    watch.join();
  }
}

}  // namespace
}  // namespace longhaul::worker::comm
