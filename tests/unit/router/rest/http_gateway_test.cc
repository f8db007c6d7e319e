#include "router/rest/http_gateway.h"

#include <gtest/gtest.h>
#include <prometheus/counter.h>

#include <atomic>
#include <nlohmann/json.hpp>
#include <thread>

#include "tests/testing/fake_intake.h"
#include "tests/testing/raw_http_client.h"
#include "tests/testing/status_matchers.h"

namespace longhaul::router::rest {
namespace {

using longhaul::testing::FakeIntake;
using longhaul::testing::HttpGet;
using longhaul::testing::HttpPost;
using longhaul::testing::RawHttpClient;
using longhaul::testing::RawHttpResponse;
using longhaul::testing::StatusIs;
using ::testing::HasSubstr;

class HttpGatewayTest : public ::testing::Test {
 protected:
  void StartWith(FakeIntake::Options intake, HttpOptions options = {}) {
    options.port = 0;
    intake_ = std::make_unique<FakeIntake>(std::move(intake));
    auto gateway = HttpGateway::Start(options, *intake_, registry_);
    ASSERT_OK(gateway);
    gateway_ = *std::move(gateway);
  }
  void SetUp() override { StartWith({}); }
  void Restart(FakeIntake::Options intake, HttpOptions options = {}) {
    gateway_.reset();
    StartWith(std::move(intake), options);
  }

  RawHttpResponse Exchange(const std::string& request) {
    RawHttpClient client(gateway_->port());
    EXPECT_TRUE(client.Send(request));
    return client.ReadResponse();
  }

  prometheus::Registry registry_;
  std::unique_ptr<FakeIntake> intake_;
  std::unique_ptr<HttpGateway> gateway_;
};

const char kChat[] = R"({"model":"demo","messages":[{"role":"user","content":"hi"}]})";
const char kStream[] =
    R"({"model":"demo","stream":true,"messages":[{"role":"user","content":"hi"}]})";

TEST_F(HttpGatewayTest, AnswersTheSmallRoutes) {
  EXPECT_EQ(Exchange(HttpGet("/health")).status, 200);
  EXPECT_EQ(Exchange(HttpGet("/health?x=1")).status, 200);
  EXPECT_EQ(Exchange(HttpGet("/ready")).status, 200);
  EXPECT_THAT(Exchange(HttpGet("/version")).body, HasSubstr(R"({"version":")"));
  const std::string model =
      R"({"id":"demo","object":"model","created":1700000000,"owned_by":"longhaul",)"
      R"("max_model_len":1000})";
  EXPECT_EQ(Exchange(HttpGet("/v1/models")).body, R"({"object":"list","data":[)" + model + "]}");
  EXPECT_EQ(Exchange(HttpGet("/v1/models/demo")).body, model);
  EXPECT_EQ(Exchange(HttpGet("/v1/models/d%65mo")).body, model);
  EXPECT_EQ(Exchange(HttpGet("/v1/models/other")).status, 404);
}

TEST_F(HttpGatewayTest, HealthIsNotReadiness) {
  Restart({.ready = false});
  EXPECT_EQ(Exchange(HttpGet("/health")).status, 200);
  EXPECT_EQ(Exchange(HttpGet("/ready")).status, 503);
}

TEST_F(HttpGatewayTest, ServesMetrics) {
  prometheus::BuildCounter().Name("some_total").Register(registry_).Add({}).Increment(3);
  const RawHttpResponse response = Exchange(HttpGet("/metrics"));
  EXPECT_EQ(response.status, 200);
  EXPECT_THAT(response.headers.at("content-type"), HasSubstr("text/plain; version=0.0.4"));
  EXPECT_THAT(response.body, HasSubstr("some_total 3"));
}

TEST_F(HttpGatewayTest, TokenizesAndBack) {
  EXPECT_EQ(Exchange(HttpPost("/tokenize", R"({"prompt":"AB"})")).body,
            R"({"count":2,"max_model_len":1000,"tokens":[65,66]})");
  EXPECT_EQ(Exchange(HttpPost("/detokenize", R"({"model":"demo","tokens":[65,66]})")).body,
            R"({"prompt":"AB"})");
  EXPECT_EQ(Exchange(HttpPost("/tokenize", R"({"messages":[{"role":"user","content":"C"}]})")).body,
            R"({"count":1,"max_model_len":1000,"tokens":[67]})");
  EXPECT_EQ(Exchange(HttpPost("/tokenize", R"({"model":"x","prompt":"A"})")).status, 404);
  EXPECT_EQ(Exchange(HttpPost("/tokenize", "{}")).status, 400);
}

TEST_F(HttpGatewayTest, ErrorsQuoteNoMoreThanIsReadable) {
  const std::string name(10000, 'm');
  const RawHttpResponse response = Exchange(HttpGet("/" + name));
  EXPECT_EQ(response.status, 404);
  EXPECT_THAT(response.body, HasSubstr(name.substr(0, 1000)));
  EXPECT_THAT(response.body, HasSubstr("mmm...\""));
  EXPECT_LT(response.body.size(), 2300u);
}

TEST_F(HttpGatewayTest, UnknownPathsAndMethodsAreNamed) {
  const RawHttpResponse unknown = Exchange(HttpGet("/v1/nothing"));
  EXPECT_EQ(unknown.status, 404);
  EXPECT_THAT(unknown.body, HasSubstr("/v1/nothing"));
  const RawHttpResponse wrong = Exchange(HttpGet("/v1/chat/completions"));
  EXPECT_EQ(wrong.status, 405);
  EXPECT_EQ(wrong.headers.at("allow"), "POST");
  EXPECT_EQ(Exchange(HttpPost("/health", "{}")).status, 405);
  EXPECT_EQ(Exchange(HttpGet("http://localhost/health?x=1")).status, 200) << "the absolute form";
  EXPECT_EQ(Exchange(HttpGet("http://localhost")).status, 404);
}

TEST_F(HttpGatewayTest, RefusesConnectionsAboveTheLimit) {
  Restart({}, {.max_connections = 2});
  RawHttpClient first(gateway_->port());
  RawHttpClient second(gateway_->port());
  first.Send(HttpGet("/health"));
  EXPECT_EQ(first.ReadResponse().status, 200);
  // The refusal is not lost although nobody reads what is sent.
  RawHttpClient third(gateway_->port());
  EXPECT_TRUE(third.Send(HttpPost("/v1/chat/completions", std::string(1 << 20, ' '))));
  const RawHttpResponse refused = third.ReadResponse();
  EXPECT_EQ(refused.status, 503);
  EXPECT_EQ(refused.headers.at("retry-after"), "1");
  EXPECT_THAT(refused.body, HasSubstr(R"("type":"service_unavailable")"));
  EXPECT_EQ(refused.headers.at("connection"), "close");
  EXPECT_TRUE(third.WaitForClose());
  third.Close();
  second.Close();
  while (Exchange(HttpGet("/health")).status == 503) std::this_thread::yield();
}

TEST_F(HttpGatewayTest, AFloodOfConnectionsIsNotAnsweredOneByOne) {
  Restart({}, {.max_connections = 1, .linger_timeout = absl::Seconds(30)});
  std::vector<std::unique_ptr<RawHttpClient>> clients;
  for (int i = 0; i < 1 + 64 + 10; i++) {
    clients.push_back(std::make_unique<RawHttpClient>(gateway_->port()));
  }
  EXPECT_EQ(clients[64]->ReadResponse().status, 503);
  EXPECT_TRUE(clients[65]->WaitForClose());
  EXPECT_TRUE(clients.back()->WaitForClose());
  clients.clear();
  while (Exchange(HttpGet("/health")).status != 200) std::this_thread::yield();
}

TEST_F(HttpGatewayTest, RefusedConnectionsOfWebPagesSaySoToo) {
  Restart({}, {.max_connections = 1, .cors = *CorsPolicy::For({"*"})});
  RawHttpClient first(gateway_->port());
  first.Send(HttpGet("/health"));
  EXPECT_EQ(first.ReadResponse().status, 200);
  RawHttpClient second(gateway_->port());
  EXPECT_EQ(second.ReadResponse().headers["access-control-allow-origin"], "*");
}

TEST_F(HttpGatewayTest, HealthAnswersWhileLargeBodiesAreDecoded) {
  Restart({}, {.num_threads = 1, .num_decode_threads = 1});
  std::string text(5 << 20, 'a');
  const std::string request =
      HttpPost("/v1/chat/completions",
               R"({"model":"demo","messages":[{"role":"user","content":")" + text + R"("}]})");
  std::atomic<int> done = 0;
  std::vector<std::thread> clients;
  for (int i = 0; i < 10; i++) {
    clients.emplace_back([&] {
      EXPECT_EQ(Exchange(request).status, 200);
      done++;
    });
  }
  auto slowest = std::chrono::steady_clock::duration::zero();
  while (done < 10) {
    const auto begin = std::chrono::steady_clock::now();
    EXPECT_EQ(Exchange(HttpGet("/health")).status, 200);
    slowest = std::max(slowest, std::chrono::steady_clock::now() - begin);
  }
  for (std::thread& client : clients) client.join();
  // Bound for a loaded machine; about 10 ms on a quiet one.
  EXPECT_LT(slowest, std::chrono::seconds(1));
}

TEST_F(HttpGatewayTest, MoreBodiesThanTheQueueHoldsAreRefusedWithARetryHint) {
  Restart({}, {.num_decode_threads = 1, .decode_queue = 1, .max_total_body_bytes = 1000});
  const RawHttpResponse refused =
      Exchange(HttpPost("/v1/chat/completions", std::string(1001, ' ')));
  EXPECT_EQ(refused.status, 503);
  EXPECT_EQ(refused.headers.at("retry-after"), "1");
  EXPECT_EQ(Exchange(HttpPost("/v1/chat/completions", kChat)).status, 200);
}

TEST_F(HttpGatewayTest, StopEndsOpenStreamsWithAnError) {
  Restart({.never_finish = true});
  RawHttpClient client(gateway_->port());
  client.Send(HttpPost("/v1/chat/completions", kStream));
  client.ReadUntil("world");
  gateway_->Stop();
  const std::string rest = client.ReadUntil("0\r\n\r\n");
  EXPECT_THAT(rest, HasSubstr(R"("type":"service_unavailable")"));
  EXPECT_THAT(rest, HasSubstr("data: [DONE]"));
  EXPECT_TRUE(client.WaitForClose());
  EXPECT_TRUE(intake_->WaitForCancelled(1, absl::Seconds(1)));
}

TEST_F(HttpGatewayTest, StopAnswersWholeRequestsWith503AndClosesIdleConnections) {
  Restart({.never_finish = true});
  RawHttpClient idle(gateway_->port());
  idle.Send(HttpGet("/health"));
  EXPECT_EQ(idle.ReadResponse().status, 200);
  RawHttpClient busy(gateway_->port());
  busy.Send(HttpPost("/v1/chat/completions", kChat));
  ASSERT_TRUE(intake_->WaitForSubmitted(1, absl::Seconds(5)));
  const auto begin = std::chrono::steady_clock::now();
  gateway_->Stop();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(1));
  EXPECT_EQ(busy.ReadResponse().status, 503);
  EXPECT_TRUE(idle.WaitForClose());
  gateway_->Stop();  // idempotent
}

TEST_F(HttpGatewayTest, IntakeMaySpeakAfterTheGatewayIsGone) {
  Restart({.prefill = absl::Milliseconds(50), .token_interval = absl::Milliseconds(20)});
  RawHttpClient client(gateway_->port());
  client.Send(HttpPost("/v1/chat/completions", kStream));
  ASSERT_TRUE(intake_->WaitForSubmitted(1, absl::Seconds(5)));
  gateway_.reset();
  intake_.reset();  // joins the thread that still talks to the sink
}

TEST_F(HttpGatewayTest, SaysWhatItCannotBind) {
  HttpOptions options;
  options.port = gateway_->port();
  EXPECT_OK(HttpGateway::Start({.port = 0}, *intake_, registry_));
  EXPECT_THAT(HttpGateway::Start({.host = "203.0.113.7", .port = 0}, *intake_, registry_),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("203.0.113.7")));
  EXPECT_THAT(HttpGateway::Start(options, *intake_, registry_),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("cannot listen")));
  EXPECT_THAT(HttpGateway::Start({.num_threads = 0}, *intake_, registry_),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("num_threads")));
}

}  // namespace
}  // namespace longhaul::router::rest
