#include "worker/rank/stream_rendezvous.h"

#include <thread>

#include "absl/strings/str_cat.h"
#include "tests/testing/fake_leader.h"
#include "tests/testing/status_matchers.h"

namespace longhaul::worker::rank {
namespace {

using ::longhaul::testing::FakeLeader;
using ::longhaul::testing::StatusIs;
using ::testing::_;
using ::testing::HasSubstr;

class StreamRendezvousTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_OK_AND_ASSIGN(stream_, ControlStream::Open(leader_.address(), {}, progress_,
                                                      absl::Now() + absl::Seconds(10), {}));
    store_ = std::make_unique<StreamRendezvous>(*stream_);
    ASSERT_TRUE(leader_.Next()->has_register_());
  }
  static absl::Time Soon() { return absl::Now() + absl::Seconds(10); }

  FakeLeader leader_;
  StepProgress progress_;
  std::unique_ptr<ControlStream> stream_;
  std::unique_ptr<StreamRendezvous> store_;
};

TEST_F(StreamRendezvousTest, WhatOneSetsIsKnownOnceTheLeaderRelaysIt) {
  EXPECT_OK(store_->Set("mine", "a"));
  const auto sent = leader_.Next();
  ASSERT_TRUE(sent.has_value() && sent->has_rendezvous());
  EXPECT_EQ(sent->rendezvous().key(), "mine");
  EXPECT_EQ(sent->rendezvous().value(), "a");
  EXPECT_THAT(store_->Get("theirs", absl::Now() + absl::Milliseconds(20)),
              StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("\"theirs\"")));
  std::thread relay([this] {
    absl::SleepFor(absl::Milliseconds(20));
    EXPECT_OK(store_->Receive("other", ""));
    EXPECT_OK(store_->Receive("theirs", "b"));
    EXPECT_OK(store_->Receive("theirs", "c"));
  });
  EXPECT_EQ(store_->Get("theirs", Soon()).value_or("none"), "b");
  relay.join();
  EXPECT_EQ(store_->Get("theirs", absl::Now()).value_or("none"), "b") << "the first counts";
}

TEST_F(StreamRendezvousTest, AbortEndsWhatWaits) {
  std::thread waiter([this] {
    EXPECT_THAT(store_->Get("never", Soon()), StatusIs(absl::StatusCode::kUnavailable, _));
  });
  absl::SleepFor(absl::Milliseconds(20));
  store_->Abort();
  waiter.join();
  EXPECT_THAT(store_->Get("never", Soon()), StatusIs(absl::StatusCode::kUnavailable, _));
  EXPECT_THAT(store_->Set("mine", ""), StatusIs(absl::StatusCode::kUnavailable, _));
}

TEST_F(StreamRendezvousTest, SaysThatTheStreamIsOver) {
  stream_->Cancel();
  EXPECT_THAT(store_->Set("mine", ""), StatusIs(absl::StatusCode::kUnavailable, _));
}

TEST_F(StreamRendezvousTest, KeepsABoundedNumber) {
  for (size_t i = 0; i < StreamRendezvous::kMaxEntries; ++i) {
    ASSERT_OK(store_->Receive(absl::StrCat(i), ""));
  }
  EXPECT_THAT(store_->Receive("one more", ""),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("1024")));
}

}  // namespace
}  // namespace longhaul::worker::rank
