#include "tests/testing/fake_leader.h"

#include "common/logging.h"

namespace longhaul::testing {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(10);

}  // namespace

FakeLeader::FakeLeader() : address_("unix:" + folder_.path() + "/leader") {
  grpc::ServerBuilder builder;
  builder.AddListeningPort(address_, grpc::InsecureServerCredentials());
  builder.RegisterService(this);
  server_ = builder.BuildAndStart();
  CHECK(server_ != nullptr) << address_;
}

FakeLeader::~FakeLeader() {
  End(grpc::Status::OK);
  server_->Shutdown(absl::ToChronoTime(absl::Now() + absl::Seconds(1)));
}

std::optional<v1::RankMessage> FakeLeader::Next() { return messages_.Pop(absl::Now() + kPatience); }

std::optional<v1::RankMessage> FakeLeader::NextHeartbeat() {
  return heartbeats_.Pop(absl::Now() + kPatience);
}

bool FakeLeader::WaitForRank() {
  const absl::Time deadline = absl::Now() + kPatience;
  MutexLock lock(mutex_);
  while (!came_ && absl::Now() < deadline) changed_.WaitUntil(mutex_, deadline);
  return came_;
}

void FakeLeader::Send(const v1::LeaderMessage& message) {
  MutexLock lock(mutex_);
  CHECK(stream_ != nullptr) << "no rank is there";
  stream_->Write(message);
}

void FakeLeader::End(const grpc::Status& status) {
  MutexLock lock(mutex_);
  if (!end_.has_value()) end_ = status;
  changed_.SignalAll();
}

bool FakeLeader::WaitForEnd() {
  const absl::Time deadline = absl::Now() + kPatience;
  MutexLock lock(mutex_);
  while (!ended_ && absl::Now() < deadline) changed_.WaitUntil(mutex_, deadline);
  return ended_;
}

grpc::Status FakeLeader::Control(grpc::ServerContext* /*context*/, Stream* stream) {
  {
    MutexLock lock(mutex_);
    stream_ = stream;
    came_ = true;
    changed_.SignalAll();
  }
  grpc::Status status;
  v1::RankMessage message;
  while (stream->Read(&message)) {
    auto& queue = message.has_heartbeat() ? heartbeats_ : messages_;
    CHECK(queue.Push(message).ok()) << "nobody reads what the rank sends";
    MutexLock lock(mutex_);
    if (!end_.has_value()) continue;
    status = *end_;
    break;
  }
  messages_.Close();
  heartbeats_.Close();
  MutexLock lock(mutex_);
  stream_ = nullptr;
  ended_ = true;
  changed_.SignalAll();
  return status;
}

}  // namespace longhaul::testing
