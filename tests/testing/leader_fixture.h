#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/types.h"
#include "longhaul/v1/worker.grpc.pb.h"
#include "tests/testing/fake_rank.h"
#include "tests/testing/jumping_clock.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"
#include "worker/leader/leader.h"

namespace longhaul::testing {

// One Execute call, spoken to by hand. Not thread-safe; the destructor cancels it.
class ExecuteClient {
 public:
  explicit ExecuteClient(v1::Worker::Stub& stub);
  ~ExecuteClient();

  void Send(const v1::ExecuteHeader& header);
  void SendPrompt(const std::vector<TokenId>& prompt);
  void CloseSending() { stream_->WritesDone(); }
  void Cancel() { context_.TryCancel(); }

  // The next event; nullopt at the end of the stream.
  std::optional<v1::ExecuteEvent> Next();
  // Reads until an event of this kind, which it returns; fails the test at the end of the stream.
  v1::ExecuteEvent NextOf(v1::ExecuteEvent::EventCase kind);
  // What is left, then the status.
  std::vector<v1::ExecuteEvent> Rest();
  grpc::Status Finish();

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::ExecuteRequest, v1::ExecuteEvent>> stream_;
  bool finished_ = false;
};

// A whole leader on unix sockets in a folder of its own, with FakeRanks (vocabulary 1000, end token
// 999), and a client of it.
class LeaderFixture : public ::testing::Test {
 protected:
  LeaderFixture();
  ~LeaderFixture() override;

  // Starts the leader; the rank is up afterwards.
  void Start();
  absl::Status TryStart();

  v1::ExecuteHeader Header(int64_t prompt_tokens, int32_t max_tokens);
  // 0, 1, 2, ... modulo 900: never an end token soon.
  static std::vector<TokenId> Prompt(int64_t tokens);
  // A request sent whole.
  std::unique_ptr<ExecuteClient> Execute(const v1::ExecuteHeader& header);
  std::unique_ptr<ExecuteClient> Execute(int64_t prompt_tokens, int32_t max_tokens) {
    return Execute(Header(prompt_tokens, max_tokens));
  }
  // Waits until the leader's load is as `done` wants it.
  template <typename Condition>
  bool WaitForLoad(Condition done, absl::Duration timeout = absl::Seconds(10)) {
    const absl::Time deadline = absl::Now() + timeout;
    while (!done(leader_->board().Get())) {
      if (absl::Now() > deadline) return false;
      absl::SleepFor(absl::Milliseconds(2));
    }
    return true;
  }
  bool AllBlocksFree() {
    return WaitForLoad([](const worker::leader::Load& load) {
      return load.ready() && load.running_requests == 0 && load.waiting_requests == 0 &&
             load.free_kv_blocks == load.kv_blocks;
    });
  }

  static std::vector<TokenId> Tokens(const std::vector<v1::ExecuteEvent>& events);

  const TempDir folder_;
  JumpingClock clock_;
  FakeRank::Options rank_options_;
  FakeRankLauncher launcher_;
  worker::leader::LeaderConfig config_;
  int num_starts_ = 0;
  worker::leader::LeaderModel model_;
  worker::leader::GroupOptions tuning_;
  std::unique_ptr<worker::leader::Leader> leader_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Worker::Stub> stub_;
  std::shared_ptr<FakeRank> rank_;  // the first
};

}  // namespace longhaul::testing
