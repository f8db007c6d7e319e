#include "cli/http_call.h"

#include <gtest/gtest.h>

#include <utility>

#include "absl/time/clock.h"
#include "tests/testing/scripted_http_server.h"
#include "tests/testing/status_matchers.h"

namespace longhaul::cli {
namespace {

using ::testing::HasSubstr;
using testing::ScriptedHttpServer;
using testing::StatusIs;

struct Outcome {
  HttpCall::Head head;
  std::string body;
  int num_ends = 0;
  absl::Status status;
};

Outcome Call(const std::string& address, const std::string& body = "{}",
             HttpCall::Limits limits = {}) {
  boost::asio::io_context context;
  Outcome outcome;
  HttpCall::Start(
      context,
      {.address = address, .path = "/p", .body = std::make_shared<const std::string>(body)}, limits,
      {.on_head = [&](const HttpCall::Head& head) { outcome.head = head; },
       .on_body = [&](std::string_view piece) { outcome.body += piece; },
       .on_end =
           [&](const absl::Status& status) {
             outcome.num_ends++;
             outcome.status = status;
           }});
  context.run_for(std::chrono::seconds(20));
  EXPECT_EQ(outcome.num_ends, 1);
  return outcome;
}

TEST(HttpCall, SendsTheBodyAndGivesTheAnswer) {
  const std::string large(3 << 20, 'y');
  ScriptedHttpServer server([&](const ScriptedHttpServer::Request& request) {
    EXPECT_THAT(request.head, HasSubstr("POST /p HTTP/1.1"));
    EXPECT_THAT(request.head, HasSubstr("Content-Type: application/json"));
    EXPECT_TRUE(request.body == large);
    return ScriptedHttpServer::Answer{
        ScriptedHttpServer::Response(429, "slow down", "X-Request-Id: r7\r\nRetry-After: 3\r\n")};
  });
  const Outcome outcome = Call(server.address(), large);
  EXPECT_OK(outcome.status);
  EXPECT_EQ(outcome.head.status, 429);
  EXPECT_EQ(outcome.head.request_id, "r7");
  EXPECT_EQ(outcome.head.retry_after, absl::Seconds(3));
  EXPECT_EQ(outcome.body, "slow down");
}

TEST(HttpCall, PutsChunksTogether) {
  const std::string chunk(200'000, 'z');
  ScriptedHttpServer server([&](const ScriptedHttpServer::Request&) {
    return ScriptedHttpServer::Answer{
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n30d40\r\n" + chunk +
        "\r\n0\r\n\r\n"};
  });
  const Outcome outcome = Call(server.address());
  EXPECT_OK(outcome.status);
  EXPECT_TRUE(outcome.body == "abc" + chunk);
}

TEST(HttpCall, AnAnswerThatBreaksOffIsNone) {
  for (const char* bytes :
       {"", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", "what?\r\n\r\n"}) {
    ScriptedHttpServer server(
        [&](const ScriptedHttpServer::Request&) { return ScriptedHttpServer::Answer{bytes}; });
    EXPECT_THAT(Call(server.address()).status,
                StatusIs(absl::StatusCode::kUnavailable, ::testing::_))
        << bytes;
  }
}

TEST(HttpCall, NobodyThereIsSaid) {
  std::string address;
  {
    const ScriptedHttpServer gone([](const auto&) { return ScriptedHttpServer::Answer{}; });
    address = gone.address();
  }
  EXPECT_THAT(Call(address).status,
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("connecting to " + address)));
  EXPECT_THAT(Call("nonsense").status, StatusIs(absl::StatusCode::kInvalidArgument, ::testing::_));
}

TEST(HttpCall, EverySilenceEnds) {
  for (const char* bytes : {"", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\n\r\nabc"}) {
    ScriptedHttpServer server([&](const ScriptedHttpServer::Request&) {
      return ScriptedHttpServer::Answer{bytes, /*stay_open=*/true};
    });
    for (const HttpCall::Limits& limits : {HttpCall::Limits{.silence = absl::Milliseconds(100)},
                                           HttpCall::Limits{.total = absl::Milliseconds(100)}}) {
      const absl::Time begin = absl::Now();
      EXPECT_THAT(Call(server.address(), "{}", limits).status,
                  StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("100ms")))
          << bytes;
      EXPECT_LT(absl::Now() - begin, absl::Seconds(5));
    }
  }
}

TEST(HttpCall, CallsNothingAfterCancel) {
  ScriptedHttpServer server([](const ScriptedHttpServer::Request&) {
    return ScriptedHttpServer::Answer{"HTTP/1.1 200 OK\r\n\r\nabc", /*stay_open=*/true};
  });
  boost::asio::io_context context;
  int num_pieces = 0;
  std::shared_ptr<HttpCall> call;
  call = HttpCall::Start(
      context,
      {.address = server.address(), .path = "/", .body = std::make_shared<const std::string>("{}")},
      {},
      {.on_head = [](const HttpCall::Head&) {},
       .on_body =
           [&](std::string_view) {
             num_pieces++;
             call->Cancel();
           },
       .on_end = [](const absl::Status&) { FAIL(); }});
  const std::weak_ptr<HttpCall> weak = call;
  context.run_for(std::chrono::seconds(10));
  EXPECT_TRUE(context.stopped()) << "something still runs";
  EXPECT_EQ(num_pieces, 1);
  call.reset();
  EXPECT_TRUE(weak.expired());
}

}  // namespace
}  // namespace longhaul::cli
