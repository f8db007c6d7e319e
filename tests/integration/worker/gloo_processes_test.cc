#include <atomic>
#include <csignal>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/subprocess.h"
#include "tests/testing/folder_rendezvous.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"
#include "worker/comm/gloo_communicator.h"

namespace longhaul::worker::comm {
namespace {

// How long the end of a connection may take to be heard: much less than the timeouts below.
constexpr absl::Duration kAtOnce = absl::Seconds(2);
constexpr absl::Duration kLongTimeout = absl::Seconds(30);

// This process is rank 0, its children are the others (gloo_peer.cc).
class GlooProcesses : public ::testing::Test {
 protected:
  // A new group, in which every child makes `call` with `elements` again and again.
  void Start(int size, const std::string& call, size_t elements,
             absl::Duration timeout = kLongTimeout) {
    signal(SIGPIPE, SIG_IGN);
    comm_.reset();
    children_.clear();
    folder_ = std::make_unique<testing::TempDir>();
    ASSERT_OK_AND_ASSIGN(const std::string programs, ProgramFolder());
    for (int rank = 1; rank < size; ++rank) {
      ASSERT_OK_AND_ASSIGN(
          auto child, Subprocess::Start({.argv = {programs + "/gloo_peer", folder_->path(),
                                                  absl::StrCat(rank), absl::StrCat(size),
                                                  absl::StrCat(absl::ToInt64Milliseconds(timeout)),
                                                  call, absl::StrCat(elements)},
                                         .capture_stdout = true}));
      children_.push_back(std::move(child));
    }
    testing::FolderRendezvous store(folder_->path());
    ASSERT_OK_AND_ASSIGN(
        comm_, MakeGlooCommunicator({.rank = 0, .size = size, .timeout = timeout}, store));
    for (auto& child : children_) {
      ASSERT_OK_AND_ASSIGN(const std::string line,
                           child->ReadLine(absl::Now() + absl::Seconds(30)));
      ASSERT_EQ(line, "ready");
    }
    values_.resize(elements);
  }

  TensorView View() {
    return {values_.data(), DType::kFloat32, 1, static_cast<int64_t>(values_.size())};
  }

  // Repeats `call` here, does `strike` after some calls, most likely during one, and returns how
  // long after it a call failed.
  template <typename Call, typename Strike>
  absl::Duration TimeToNotice(Call call, Strike strike) {
    std::atomic<int> calls = 0;
    absl::Time struck;
    std::thread striker([&] {
      while (calls < 3) absl::SleepFor(absl::Milliseconds(1));
      absl::SleepFor(absl::Milliseconds(15));
      struck = absl::Now();
      strike();
    });
    absl::Status status;
    for (; status.ok() || calls < 3; ++calls) status = call();
    const absl::Time noticed = absl::Now();
    striker.join();
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
    EXPECT_EQ(comm_->Poll(), status);
    return noticed - struck;
  }

  // The child ends by itself, and says that it lost a peer, within `bound`.
  void ExpectEnds(Subprocess& child, absl::Duration bound) {
    const auto line = child.ReadLine(absl::Now() + bound);
    ASSERT_OK(line);
    EXPECT_TRUE(absl::StartsWith(*line, "ended UNAVAILABLE")) << *line;
    const auto exit = child.Wait(absl::Now() + absl::Seconds(10));
    ASSERT_TRUE(exit.has_value());
    EXPECT_EQ(exit->ToString(), "exit code 0");
  }

  std::unique_ptr<testing::TempDir> folder_;
  std::vector<std::unique_ptr<Subprocess>> children_;
  std::unique_ptr<Communicator> comm_;
  std::vector<float> values_;
};

constexpr size_t kSmall = 1000;
constexpr size_t kLarge = size_t{64} << 18;  // 64 MiB: most of the time under way

TEST_F(GlooProcesses, AKilledRankIsNoticedAtOnceInASum) {
  for (const size_t elements : {kSmall, kLarge}) {
    SCOPED_TRACE(elements);
    ASSERT_NO_FATAL_FAILURE(Start(3, "sum", elements));
    EXPECT_LT(TimeToNotice([&] { return comm_->AllReduceSum(View(), {}); },
                           [&] { children_[1]->Signal(SIGKILL); }),
              kAtOnce);
    ExpectEnds(*children_[0], kAtOnce);
  }
}

TEST_F(GlooProcesses, AKilledReceiverIsNoticedAtOnce) {
  ASSERT_NO_FATAL_FAILURE(Start(2, "receive", kLarge));
  EXPECT_LT(TimeToNotice([&] { return comm_->Send(View(), 1, {}); },
                         [&] { children_[0]->Signal(SIGKILL); }),
            kAtOnce);
}

TEST_F(GlooProcesses, AKilledSenderIsNoticedAtOnce) {
  ASSERT_NO_FATAL_FAILURE(Start(2, "send", kLarge));
  EXPECT_LT(TimeToNotice([&] { return comm_->Recv(View(), 1, {}); },
                         [&] { children_[0]->Signal(SIGKILL); }),
            kAtOnce);
}

TEST_F(GlooProcesses, AnIdleGroupHearsOfAKilledRank) {
  ASSERT_NO_FATAL_FAILURE(Start(3, "idle", 1));
  const auto poll = [&] {
    absl::SleepFor(absl::Milliseconds(1));
    return comm_->Poll();
  };
  EXPECT_LT(TimeToNotice(poll, [&] { children_[1]->Signal(SIGKILL); }), kAtOnce);
  ExpectEnds(*children_[0], kAtOnce);
}

TEST_F(GlooProcesses, AStoppedRankIsNoticedByTheTimeout) {
  const absl::Duration timeout = absl::Seconds(2);
  for (const size_t elements : {kSmall, kLarge}) {
    SCOPED_TRACE(elements);
    ASSERT_NO_FATAL_FAILURE(Start(3, "sum", elements, timeout));
    EXPECT_LT(TimeToNotice([&] { return comm_->AllReduceSum(View(), {}); },
                           [&] { children_[1]->Signal(SIGSTOP); }),
              timeout + kAtOnce);
    ExpectEnds(*children_[0], timeout + kAtOnce);
    // When it goes on it finds the group gone.
    children_[1]->Signal(SIGCONT);
    ExpectEnds(*children_[1], kAtOnce);
  }
}

TEST_F(GlooProcesses, AbortEndsAllRanks) {
  ASSERT_NO_FATAL_FAILURE(Start(3, "sum", kLarge));
  EXPECT_LT(TimeToNotice([&] { return comm_->AllReduceSum(View(), {}); }, [&] { comm_->Abort(); }),
            kAtOnce);
  for (auto& child : children_) ExpectEnds(*child, kAtOnce);
}

}  // namespace
}  // namespace longhaul::worker::comm
