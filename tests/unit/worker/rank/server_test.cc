#include "worker/rank/server.h"

#include <signal.h>
#include <sys/resource.h>

#include <filesystem>
#include <stop_token>
#include <thread>

#include "tests/testing/fake_leader.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace longhaul::worker::rank {
namespace {

using ::longhaul::testing::FakeLeader;
using ::longhaul::testing::StatusIs;
using ::longhaul::testing::TempDir;
using ::longhaul::testing::TinyModel;
using ::testing::HasSubstr;

class RankServer : public ::testing::Test {
 protected:
  RankServer() {
    signal(SIGPIPE, SIG_IGN);  // as the program does
    TinyModel{}.Write(folder_.path());
    config_.model = folder_.path();
    config_.control = leader_.address();
    config_.threads = 1;
    config_.kv_cache_gib = 0.01;
    config_.metrics_port = -1;  // its HTTP server takes two seconds to stop
  }
  ~RankServer() override {
    stop_.request_stop();
    if (thread_.joinable()) thread_.join();
  }

  void Run() {
    thread_ = std::thread([this] { ended_ = RunRank(config_, "secret", stop_.get_token()); });
  }
  absl::Status Ended() {
    thread_.join();
    return ended_;
  }

  // A rank that has registered, started and loaded.
  void RunAndStart(uint32_t pipeline_parallel_size = 1, uint32_t layer_end = 3) {
    Run();
    const auto registered = leader_.Next();
    ASSERT_TRUE(registered.has_value() && registered->has_register_());
    capacity_ = registered->register_().kv_capacity_blocks();
    v1::LeaderMessage message;
    v1::Start* start = message.mutable_start();
    start->set_tensor_parallel_size(1);
    start->set_pipeline_parallel_size(pipeline_parallel_size);
    start->set_layer_end(layer_end);
    start->set_kv_blocks(4);
    leader_.Send(message);
  }

  v1::Started AwaitStarted() {
    const auto message = leader_.Next();
    CHECK(message.has_value() && message->has_started()) << "the rank did not load";
    return message->started();
  }

  static v1::LeaderMessage GreedyPlan() {
    v1::LeaderMessage message;
    v1::StepPlan* plan = message.mutable_plan();
    plan->set_step_id(1);
    v1::SequenceStart* start = plan->add_starts();
    start->set_sequence_id(1);
    start->set_prompt_tokens(3);
    v1::Sampling* sampling = start->mutable_sampling();
    sampling->set_temperature(0);
    sampling->set_top_p(1);
    sampling->set_top_k(0);
    sampling->set_min_p(0);
    sampling->set_repetition_penalty(1);
    sampling->set_presence_penalty(0);
    sampling->set_frequency_penalty(0);
    sampling->set_seed(1);
    v1::Unit* unit = plan->add_units();
    unit->set_layer_end(3);
    v1::Slice* slice = unit->add_slices();
    slice->set_sequence_id(1);
    for (const uint32_t id : {5, 6, 7}) slice->add_token_ids(id);
    slice->add_new_block_ids(2);
    slice->set_sample(true);
    return message;
  }

  const TempDir folder_;
  FakeLeader leader_;
  RankConfig config_;
  std::stop_source stop_;
  std::thread thread_;
  absl::Status ended_;
  uint64_t capacity_ = 0;
};

TEST_F(RankServer, ExecutesAPlanAndEndsWithItsLeader) {
  RunAndStart();
  // 0.01 GiB of blocks of 3 layers: K and V, 64 x 256 x 4 bytes each, and 1 KiB of scales.
  EXPECT_EQ(capacity_, static_cast<uint64_t>(0.01 * (1 << 30)) / (3 * (2 * 65536 + 1024)));
  EXPECT_GT(AwaitStarted().weight_bytes(), 0u);
  leader_.Send(GreedyPlan());
  const auto done = leader_.Next();
  ASSERT_TRUE(done.has_value() && done->has_step_done());
  ASSERT_EQ(done->step_done().sampled_size(), 1);
  EXPECT_EQ(done->step_done().sampled(0).sequence_id(), 1u);
  leader_.End(grpc::Status::OK);
  EXPECT_OK(Ended());
}

TEST_F(RankServer, StopsWhenAsked) {
  RunAndStart();
  AwaitStarted();
  stop_.request_stop();
  EXPECT_OK(Ended());
}

TEST_F(RankServer, StopsWhileNobodyAnswers) {
  config_.control = "unix:" + folder_.path() + "/nobody";
  Run();
  absl::SleepFor(absl::Milliseconds(20));
  stop_.request_stop();
  EXPECT_OK(Ended());
}

TEST_F(RankServer, TellsItsLeaderOfAPlanThatBreaksTheRules) {
  RunAndStart();
  AwaitStarted();
  v1::LeaderMessage message = GreedyPlan();
  message.mutable_plan()->set_step_id(2);
  leader_.Send(message);
  const auto failed = leader_.Next();
  ASSERT_TRUE(failed.has_value() && failed->has_failed());
  EXPECT_THAT(failed->failed().message(), HasSubstr("step 2 came after step 0"));
  EXPECT_TRUE(absl::IsInvalidArgument(Ended()));
}

TEST_F(RankServer, RefusesAPlaceOtherThanItsOwn) {
  RunAndStart(/*pipeline_parallel_size=*/2);
  const auto failed = leader_.Next();
  ASSERT_TRUE(failed.has_value() && failed->has_failed());
  EXPECT_THAT(Ended(), StatusIs(absl::StatusCode::kInvalidArgument,
                                HasSubstr("rank 0 of 1 x 2 (tensor x pipeline parallel) with "
                                          "layers [0, 3); its own settings say 1 x 1")));
}

TEST_F(RankServer, RegistersWhatItsOwnPartTakes) {
  config_.rank = 1;
  config_.pipeline_parallel_size = 2;
  config_.layer_split = "2,1";
  Run();
  const auto registered = leader_.Next();
  ASSERT_TRUE(registered.has_value() && registered->has_register_());
  // A block of one layer.
  EXPECT_EQ(registered->register_().kv_capacity_blocks(),
            static_cast<uint64_t>(0.01 * (1 << 30)) / (2 * 65536 + 1024));
}

TEST_F(RankServer, StopsWhileItWaitsForItsPeers) {
  config_.pipeline_parallel_size = 2;
  RunAndStart(/*pipeline_parallel_size=*/2, /*layer_end=*/2);
  const auto entry = leader_.Next();
  ASSERT_TRUE(entry.has_value() && entry->has_rendezvous());
  EXPECT_EQ(entry->rendezvous().key(), "pipeline0/gloo/0");
  const absl::Time before = absl::Now();
  v1::LeaderMessage message;
  message.mutable_abort()->set_reason("rank 1 is lost");
  leader_.Send(message);
  EXPECT_THAT(Ended(), StatusIs(absl::StatusCode::kAborted, HasSubstr("rank 1 is lost")));
  EXPECT_LT(absl::Now() - before, absl::Seconds(5));
}

TEST_F(RankServer, NamesSettingsThatDoNotFitTheModel) {
  config_.tensor_parallel_size = 2;
  Run();
  EXPECT_THAT(Ended(), StatusIs(absl::StatusCode::kInvalidArgument,
                                HasSubstr("--tensor-parallel-size is 2, must divide")));
  config_.tensor_parallel_size = 1;
  config_.rank = 3;
  config_.pipeline_parallel_size = 3;
  Run();
  EXPECT_THAT(Ended(), StatusIs(absl::StatusCode::kInvalidArgument,
                                HasSubstr("--rank is 3 in a group of 3 ranks")));
}

TEST_F(RankServer, RefusesAModelBeforeItRegisters) {
  const TempDir empty;
  config_.model = empty.path();
  Run();
  EXPECT_THAT(Ended(), StatusIs(absl::StatusCode::kNotFound, HasSubstr("config.json")));
}

TEST_F(RankServer, SaysThatTheCacheIsTooSmallForABlock) {
  config_.kv_cache_gib = 0.0001;
  Run();
  EXPECT_THAT(Ended(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("kv-cache-gib")));
}

TEST_F(RankServer, MovesBlocksToMemoryAndDisk) {
  config_.kv_offload_gib = 0.002;
  config_.kv_offload_dir = folder_.path();
  config_.kv_offload_disk_gib = 0.003;
  Run();
  const auto registered = leader_.Next();
  ASSERT_TRUE(registered.has_value() && registered->has_register_());
  const uint64_t block = 3 * (2 * 65536 + 1024);
  const uint64_t host_slots = static_cast<uint64_t>(0.002 * (1 << 30)) / block;
  EXPECT_EQ(registered->register_().host_slots(), host_slots);
  // With their checksums, in whole pages.
  EXPECT_EQ(registered->register_().disk_slots(),
            static_cast<uint64_t>(0.003 * (1 << 30)) / (97 * 4096));
  v1::LeaderMessage message;
  v1::Start* start = message.mutable_start();
  start->set_tensor_parallel_size(1);
  start->set_pipeline_parallel_size(1);
  start->set_layer_end(3);
  start->set_kv_blocks(4);
  start->set_host_slots(static_cast<uint32_t>(host_slots));
  start->set_disk_slots(1);
  leader_.Send(message);
  AwaitStarted();
  message = {};
  message.mutable_plan()->set_step_id(1);
  const auto move = [&message](v1::KvTier from, v1::KvTier to) {
    v1::KvMove* added = message.mutable_plan()->add_moves();
    added->set_from(from);
    added->set_to(to);
  };
  move(v1::KV_TIER_HOST, v1::KV_TIER_DISK);  // nothing is there
  move(v1::KV_TIER_DEVICE, v1::KV_TIER_DISK);
  move(v1::KV_TIER_DISK, v1::KV_TIER_HOST);
  move(v1::KV_TIER_HOST, v1::KV_TIER_DEVICE);
  leader_.Send(message);
  const auto done = leader_.Next();
  ASSERT_TRUE(done.has_value() && done->has_step_done());
  EXPECT_THAT(done->step_done().failed_moves(), ::testing::ElementsAre(0));
  EXPECT_EQ(std::filesystem::file_size(folder_.path() + "/rank0.kv"), block + 32);
  leader_.End(grpc::Status::OK);
  EXPECT_OK(Ended());
}

TEST_F(RankServer, SaysThatTheOffloadFolderCannotBeWritten) {
  config_.kv_offload_dir = folder_.path() + "/none";
  Run();
  EXPECT_THAT(Ended(), StatusIs(absl::StatusCode::kInvalidArgument,
                                HasSubstr("none/rank0.kv: No such file or directory "
                                          "(kv-offload-dir)")));
}

TEST_F(RankServer, SaysThatThereIsLessMemoryThanToOffloadTo) {
  config_.kv_offload_gib = 60000;
  Run();
  EXPECT_THAT(Ended(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("kv-offload-gib is 60000")));
}

TEST_F(RankServer, IdleUsesNoCpu) {
  config_.metrics_port = 0;
  RunAndStart();
  AwaitStarted();
  const auto used = [] {
    rusage usage = {};
    getrusage(RUSAGE_SELF, &usage);
    return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           1e-6 * static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
  };
  absl::SleepFor(absl::Milliseconds(100));  // start-up is over
  const double before = used();
  absl::SleepFor(absl::Seconds(2));
  // 1% of a core is 0.02 s; leader and rank share this process.
  EXPECT_LT(used() - before, 0.04);
}

}  // namespace
}  // namespace longhaul::worker::rank
