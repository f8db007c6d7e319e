// What a leader knows of its ranks' costs when it is ready, over the lives of several leaders.
#include <prometheus/registry.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "tests/testing/leader_fixture.h"

namespace longhaul::worker::leader {
namespace {

using ::testing::IsEmpty;
using ::testing::SizeIs;

class LeaderCostsTest : public ::longhaul::testing::LeaderFixture {
 protected:
  LeaderCostsTest() {
    config_.warm_up_seconds = 2;
    config_.cost_model_dir = folder_.path() + "/costs";
    rank_options_.seconds_per_token = 1e-5;
    model_.cost_key = {.model = model_.digest,
                       .tensor_parallel_size = 1,
                       .stage_layers = {2},
                       .kv_dtype = "fp32",
                       .attention = "rope"};
  }
  // The leader ends, and another one starts.
  void Restart() {
    channel_.reset();
    leader_->Stop();
    leader_.reset();
    Start();
  }
  double Gauge(const std::string& name) const {
    for (const prometheus::MetricFamily& family : leader_->metrics().registry()->Collect()) {
      if (family.name == "longhaul_worker_" + name) return family.metric[0].gauge.value;
    }
    ADD_FAILURE() << "no metric " << name;
    return NAN;
  }
  size_t NumFiles() const {
    size_t count = 0;
    for (const auto& file : std::filesystem::directory_iterator(config_.cost_model_dir)) {
      count += file.path().extension() == ".json" ? 1 : 0;  // else being written
    }
    return count;
  }
};

TEST_F(LeaderCostsTest, ARestartedLeaderNeedsNoWarmUp) {
  Start();
  EXPECT_GT(Gauge("warm_up_seconds"), 0);
  EXPECT_EQ(Gauge("cost_fit_ok"), 1);
  const CostCoefficients measured = leader_->board().Get().cost;
  EXPECT_NEAR(measured.b, 1e-5, 1e-7);
  EXPECT_GE(measured.reach_tokens, 8192);
  EXPECT_THAT(Tokens(Execute(300, 2)->Rest()), SizeIs(2)) << "and it serves";
  Restart();
  EXPECT_EQ(Gauge("warm_up_seconds"), 0);
  EXPECT_EQ(Gauge("cost_fit_ok"), 1);
  EXPECT_EQ(NumFiles(), 1u);
  const CostCoefficients known = leader_->board().Get().cost;
  EXPECT_NEAR(known.b, measured.b, 0.01 * measured.b);
  EXPECT_EQ(known.reach_tokens, measured.reach_tokens);
  EXPECT_THAT(rank_->plans(), IsEmpty());
}

TEST_F(LeaderCostsTest, OtherHardwareIsMeasuredAnew) {
  Start();
  rank_options_.hardware = "another one";
  rank_options_.seconds_per_token = 1e-4;
  Restart();
  EXPECT_GT(Gauge("warm_up_seconds"), 0);
  EXPECT_NEAR(leader_->board().Get().cost.b, 1e-4, 1e-6);
  leader_->Stop();
  EXPECT_EQ(NumFiles(), 2u);
}

TEST_F(LeaderCostsTest, WithoutAFolderNothingIsSaved) {
  config_.cost_model_dir.clear();
  Start();
  EXPECT_GT(Gauge("warm_up_seconds"), 0);
  Restart();
  EXPECT_GT(Gauge("warm_up_seconds"), 0);
}

TEST_F(LeaderCostsTest, ADamagedFileOrFolderDoesNotKeepItFromStarting) {
  Start();
  leader_->Stop();
  for (const auto& file : std::filesystem::directory_iterator(config_.cost_model_dir)) {
    std::ofstream(file.path()) << "{\"version\": 1, ";
  }
  Restart();
  EXPECT_GT(Gauge("warm_up_seconds"), 0);
  leader_->Stop();
  config_.cost_model_dir = folder_.Write("file", "no folder");
  Restart();
  EXPECT_GT(Gauge("warm_up_seconds"), 0);
}

}  // namespace
}  // namespace longhaul::worker::leader
