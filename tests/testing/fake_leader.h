#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/mutex.h"
#include "common/queue.h"
#include "longhaul/v1/rank.grpc.pb.h"
#include "tests/testing/temp_dir.h"

namespace longhaul::testing {

// A leader that speaks rank.proto with one rank at a time and does what the test says: real gRPC on
// a unix socket. Thread-safe.
class FakeLeader final : private v1::Rank::Service {
 public:
  FakeLeader();
  ~FakeLeader() override;

  const std::string& address() const { return address_; }

  // The next message of the rank that is no heartbeat; nullopt if the stream ended or 10 s passed.
  std::optional<v1::RankMessage> Next();
  // The next heartbeat.
  std::optional<v1::RankMessage> NextHeartbeat();
  // Waits for a rank, at most 10 s; false if none came.
  bool WaitForRank() EXCLUDES(mutex_);
  // To the rank.
  void Send(const v1::LeaderMessage& message) EXCLUDES(mutex_);
  // Ends the call with this status when the rank next sends something: within a second.
  void End(const grpc::Status& status) EXCLUDES(mutex_);
  // Waits until the rank's side is gone, at most 10 s.
  bool WaitForEnd() EXCLUDES(mutex_);

 private:
  using Stream = grpc::ServerReaderWriter<v1::LeaderMessage, v1::RankMessage>;
  grpc::Status Control(grpc::ServerContext* context, Stream* stream) override EXCLUDES(mutex_);

  const TempDir folder_;
  const std::string address_;
  BoundedQueue<v1::RankMessage> messages_{1 << 16};
  BoundedQueue<v1::RankMessage> heartbeats_{1 << 16};
  Mutex mutex_;
  CondVar changed_;
  Stream* stream_ GUARDED_BY(mutex_) = nullptr;
  bool came_ GUARDED_BY(mutex_) = false;
  bool ended_ GUARDED_BY(mutex_) = false;
  std::optional<grpc::Status> end_ GUARDED_BY(mutex_);
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace longhaul::testing
