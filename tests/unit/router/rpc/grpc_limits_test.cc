// What one gRPC client may take of a router.
#include <gmock/gmock.h>

#include <atomic>
#include <thread>

#include "tests/testing/grpc_fixture.h"
#include "tests/testing/raw_http_client.h"

namespace longhaul::router::rpc {
namespace {

using longhaul::testing::Executions;
using longhaul::testing::FakeBehavior;
using longhaul::testing::RawHttpClient;
using ::testing::HasSubstr;

using GrpcLimitsTest = longhaul::testing::GrpcTest;

v1::TokenizeRequest TokenizeOfSize(size_t bytes) {
  v1::TokenizeRequest request;
  request.set_model("demo");
  request.set_text(" ");
  request.set_text(std::string(bytes - request.ByteSizeLong(), ' '));
  while (request.ByteSizeLong() > bytes) request.mutable_text()->pop_back();
  return request;
}

TEST_F(GrpcLimitsTest, AMessageOfTheLimitIsTakenAndOneByteMoreIsNot) {
  constexpr size_t kLimit = 1 << 20;
  Listen({.max_message_bytes = kLimit});
  v1::TokenizeResponse response;
  {
    const v1::TokenizeRequest request = TokenizeOfSize(kLimit);
    ASSERT_EQ(request.ByteSizeLong(), kLimit);
    grpc::ClientContext context;
    const grpc::Status status = stub_->Tokenize(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
  }
  const v1::TokenizeRequest request = TokenizeOfSize(kLimit + 1);
  ASSERT_EQ(request.ByteSizeLong(), kLimit + 1);
  grpc::ClientContext context;
  const grpc::Status status = stub_->Tokenize(&context, request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr(std::to_string(kLimit)));
}

TEST_F(GrpcLimitsTest, ACompressedMessageIsRefused) {
  for (const auto algorithm : {GRPC_COMPRESS_GZIP, GRPC_COMPRESS_DEFLATE}) {
    v1::TokenizeResponse response;
    grpc::ClientContext context;
    context.set_compression_algorithm(algorithm);
    EXPECT_EQ(stub_->Tokenize(&context, TokenizeOfSize(100'000), &response).error_code(),
              grpc::StatusCode::UNIMPLEMENTED);
  }
}

TEST_F(GrpcLimitsTest, ACallAboveTheStreamsOfAConnectionWaitsAtTheClient) {
  Listen({.max_concurrent_streams = 2});
  FakeBehavior hanging;
  hanging.hang_after_tokens = 1;
  worker_->SetBehavior(hanging);
  // A call ahead of the three: the client has read the server's settings when it is over.
  v1::ListModelsResponse models;
  {
    grpc::ClientContext context;
    ASSERT_TRUE(stub_->ListModels(&context, {}, &models).ok());
  }
  grpc::ClientContext contexts[2];
  std::unique_ptr<grpc::ClientReader<v1::GenerateEvent>> readers[2];
  v1::GenerateEvent event;
  for (int i = 0; i < 2; ++i) {
    readers[i] = stub_->Chat(&contexts[i], Chat("x"));
    while (readers[i]->Read(&event) && !event.has_delta()) {
    }
  }
  std::atomic<bool> third_began = false;
  std::thread third([&] {
    grpc::ClientContext context;
    const auto reader = stub_->Chat(&context, Chat("x"));
    v1::GenerateEvent first;
    third_began = reader->Read(&first);
    context.TryCancel();
    reader->Finish();
  });
  EXPECT_FALSE(
      worker_->WaitFor([](const Executions& e) { return e.size() > 2; }, absl::Milliseconds(300)));
  EXPECT_FALSE(third_began);
  contexts[0].TryCancel();
  third.join();
  EXPECT_TRUE(third_began);
  contexts[1].TryCancel();
}

TEST_F(GrpcLimitsTest, BytesAboveTheMemoryOfAllConnectionsAreRefusedAndFreedAgain) {
  Listen({.memory_bytes = 8 << 20});
  const auto ask = [this](size_t bytes) {
    v1::TokenizeResponse response;
    grpc::ClientContext context;
    context.set_wait_for_ready(true);
    context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(10)));
    return stub_->Tokenize(&context, TokenizeOfSize(bytes), &response).error_code();
  };
  EXPECT_EQ(ask(1 << 20), grpc::StatusCode::OK);
  // Either the call ends or its connection.
  EXPECT_THAT(ask(32 << 20), ::testing::AnyOf(grpc::StatusCode::RESOURCE_EXHAUSTED,
                                              grpc::StatusCode::UNAVAILABLE));
  const absl::Time deadline = absl::Now() + absl::Seconds(10);
  grpc::StatusCode code = ask(1 << 20);
  while (code != grpc::StatusCode::OK && absl::Now() < deadline) {
    absl::SleepFor(absl::Milliseconds(50));
    code = ask(1 << 20);
  }
  EXPECT_EQ(code, grpc::StatusCode::OK);
}

// HTTP/2 by hand, as far as a client needs it that says hello and then nothing more.
constexpr char kHello[] =
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  // preface
    "\0\0\0\x04\0\0\0\0\0";             // SETTINGS, empty
constexpr char kSettingsAck[] = "\0\0\0\x04\x01\0\0\0\0";
constexpr char kPing[] = "\0\0\x08\x06\0\0\0\0\0longhaul";
template <size_t N>
std::string Bytes(const char (&text)[N]) {
  return {text, N - 1};
}

TEST_F(GrpcLimitsTest, AClientThatAnswersNoPingIsDropped) {
  Listen({.keepalive = absl::Milliseconds(200), .keepalive_timeout = absl::Milliseconds(200)});
  RawHttpClient client(frontend_->port());
  ASSERT_TRUE(client.Send(Bytes(kHello) + Bytes(kSettingsAck)));
  const absl::Time begin = absl::Now();
  client.ReadUntil("never sent", std::chrono::seconds(20));  // to the end of the connection
  EXPECT_TRUE(client.WaitForClose());
  EXPECT_GE(absl::Now() - begin, absl::Milliseconds(300));
}

TEST_F(GrpcLimitsTest, AClientWhoseSystemAnswersPingsIsKept) {
  Listen({.keepalive = absl::Milliseconds(100), .keepalive_timeout = absl::Milliseconds(2000)});
  FakeBehavior slow = Saying("ok");
  slow.progress_interval = absl::Milliseconds(400);
  worker_->SetBehavior(slow);
  EXPECT_EQ(Ask(Chat("x")).text, "ok");
}

TEST_F(GrpcLimitsTest, AClientThatPingsTooOftenIsSentAway) {
  Listen({.min_ping_interval = absl::Seconds(10)});
  RawHttpClient client(frontend_->port());
  ASSERT_TRUE(client.Send(Bytes(kHello) + Bytes(kSettingsAck)));
  std::string pings;
  for (int i = 0; i < 20; ++i) pings += Bytes(kPing);
  client.Send(pings);
  EXPECT_THAT(client.ReadUntil("too_many_pings"), HasSubstr("too_many_pings"));
}

TEST_F(GrpcLimitsTest, AClientThatPingsAsOftenAsItMayIsKept) {
  Listen({.min_ping_interval = absl::Milliseconds(20)});
  RawHttpClient client(frontend_->port());
  ASSERT_TRUE(client.Send(Bytes(kHello) + Bytes(kSettingsAck)));
  for (int i = 0; i < 10; ++i) {
    ASSERT_TRUE(client.Send(Bytes(kPing)));
    EXPECT_THAT(client.ReadUntil("longhaul"), HasSubstr("longhaul")) << "ping " << i;
    absl::SleepFor(absl::Milliseconds(40));
  }
}

}  // namespace
}  // namespace longhaul::router::rpc
