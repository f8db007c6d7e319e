#include "worker/rank/stage_link.h"

#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "tests/testing/status_matchers.h"
#include "worker/backend/cpu_backend.h"
#include "worker/comm/local_communicator.h"

namespace longhaul::worker::rank {
namespace {

using ::longhaul::testing::StatusIs;
using ::testing::HasSubstr;

class StageLinkTest : public ::testing::Test {
 protected:
  static TensorView View(std::vector<float>& values) {
    return {values.data(), DType::kFloat32, 2, static_cast<int64_t>(values.size()) / 2};
  }

  const std::unique_ptr<backend::Backend> backend_ = backend::MakeCpuBackend(1);
  std::vector<std::unique_ptr<comm::Communicator>> stages_ = comm::MakeLocalGroup(2);
};

TEST_F(StageLinkTest, CarriesStreamsInOrder) {
  std::thread behind([this] {
    StageLink link(*stages_[1], *backend_);
    EXPECT_EQ(link.stage(), 1);
    EXPECT_EQ(link.num_stages(), 2);
    std::vector<float> received(4);
    for (const float first : {1.0f, 2.0f}) {
      EXPECT_OK(link.Receive(View(received)));
      EXPECT_EQ(received, std::vector<float>(4, first));
    }
  });
  StageLink link(*stages_[0], *backend_);
  std::unique_ptr<backend::Mark> sent;
  EXPECT_OK(link.Await(sent));  // nothing was sent yet
  std::vector<float> hidden(4);
  for (const float first : {1.0f, 2.0f}) {
    hidden.assign(4, first);
    EXPECT_OK(link.Send(View(hidden), sent));
    EXPECT_OK(link.Await(sent));
  }
  behind.join();
}

// A communicator whose peer is always late.
class Late final : public comm::Communicator {
 public:
  static constexpr absl::Duration kBy = absl::Milliseconds(20);

  int rank() const override { return 1; }
  int size() const override { return 2; }
  absl::Status Send(TensorView, int, Stream) override { return Wait(); }
  absl::Status Recv(TensorView, int, Stream) override { return Wait(); }
  absl::Status Broadcast(TensorView, int, Stream) override { return absl::OkStatus(); }
  absl::Status AllReduceSum(TensorView, Stream) override { return absl::OkStatus(); }
  absl::Status Poll() override { return absl::OkStatus(); }
  void Abort() override {}

 private:
  static absl::Status Wait() {
    absl::SleepFor(kBy);
    return absl::OkStatus();
  }
};

TEST_F(StageLinkTest, KnowsHowLongItWaitedSinceItWasAsked) {
  Late late;
  StageLink link(late, *backend_);
  std::vector<float> hidden(4);
  EXPECT_OK(link.Receive(View(hidden)));
  EXPECT_OK(link.Receive(View(hidden)));
  const auto waited = link.TakeWaited();
  ASSERT_OK(waited);
  EXPECT_GE(*waited, 2 * Late::kBy);
  const auto rest = link.TakeWaited();
  ASSERT_OK(rest);
  EXPECT_EQ(*rest, absl::ZeroDuration());
}

TEST_F(StageLinkTest, SaysWhatCouldNotBeCarried) {
  stages_.pop_back();
  StageLink link(*stages_[0], *backend_);
  std::unique_ptr<backend::Mark> sent;
  std::vector<float> hidden(4);
  EXPECT_THAT(link.Send(View(hidden), sent),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("activations of 2 tokens")));
}

}  // namespace
}  // namespace longhaul::worker::rank
