#include "router/rest/rest_call.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "router/error_detail.h"
#include "router/rest/http_gateway.h"
#include "tests/testing/fake_intake.h"
#include "tests/testing/raw_http_client.h"
#include "tests/testing/status_matchers.h"

namespace longhaul::router::rest {
namespace {

using longhaul::testing::FakeIntake;
using longhaul::testing::HttpPost;
using longhaul::testing::RawHttpClient;
using longhaul::testing::RawHttpResponse;
using ::testing::HasSubstr;
using ::testing::Not;

class FixedClock final : public Clock {
 public:
  absl::Time Now() const override { return absl::FromUnixSeconds(1234); }
};

class RestCallTest : public ::testing::Test {
 protected:
  void StartWith(FakeIntake::Options intake, HttpOptions options = {}) {
    gateway_.reset();
    options.port = 0;
    options.clock = &clock_;
    intake_ = std::make_unique<FakeIntake>(std::move(intake));
    auto gateway = HttpGateway::Start(options, *intake_, registry_);
    ASSERT_OK(gateway);
    gateway_ = *std::move(gateway);
  }
  std::unique_ptr<RawHttpClient> Send(const std::string& fields, const std::string& headers = "",
                                      const std::string& path = "/v1/chat/completions") {
    const std::string input = path == "/v1/completions"
                                  ? R"("prompt":"hi")"
                                  : R"("messages":[{"role":"user","content":"hi"}])";
    const std::string body =
        R"({"model":"demo",)" + input + (fields.empty() ? "" : ",") + fields + "}";
    auto client = std::make_unique<RawHttpClient>(gateway_->port());
    EXPECT_TRUE(client->Send(HttpPost(path, body, headers)));
    return client;
  }

  FixedClock clock_;
  prometheus::Registry registry_;
  std::unique_ptr<FakeIntake> intake_;
  std::unique_ptr<HttpGateway> gateway_;
};

TEST_F(RestCallTest, WholeAnswerByteForByte) {
  StartWith({});
  const RawHttpResponse response = Send("")->ReadResponse();
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.headers.at("content-type"), "application/json");
  EXPECT_EQ(
      response.body,
      R"({"id":"chatcmpl-)" + response.headers.at("x-request-id") +
          R"(","object":"chat.completion","created":1234,"model":"demo","choices":[{"index":0,)"
          R"("message":{"role":"assistant","content":"Hello big world"},"logprobs":null,)"
          R"("finish_reason":"stop"}],"usage":{"prompt_tokens":7,"completion_tokens":3,)"
          R"("total_tokens":10,"prompt_tokens_details":{"cached_tokens":4}}})");
}

TEST_F(RestCallTest, StreamByteForByte) {
  StartWith({.reply = {"Hel", "lo"}});
  auto client = Send(R"("stream":true,"stream_options":{"include_usage":true})");
  const std::string head = client->ReadUntil("\r\n\r\n");
  const size_t at = head.find("X-Request-Id: ") + 14;
  const std::string id = head.substr(at, 32);
  EXPECT_EQ(head, "HTTP/1.1 200 OK\r\nServer: longhaul\r\nX-Request-Id: " + id +
                      "\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: "
                      "no-cache\r\nX-Accel-Buffering: no\r\nTransfer-Encoding: chunked\r\n\r\n");
  const std::string begin = R"({"id":"chatcmpl-)" + id +
                            R"(","object":"chat.completion.chunk","created":1234,"model":"demo",)";
  const auto event = [&begin](const std::string& rest) {
    const std::string data = "data: " + begin + rest + "\n\n";
    char size[16];
    snprintf(size, sizeof size, "%zx\r\n", data.size());
    return size + data + "\r\n";
  };
  const std::string expected =
      event(
          R"("choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"usage":null})") +
      event(
          R"("choices":[{"index":0,"delta":{"content":"Hel"},"logprobs":null,"finish_reason":null}],"usage":null})") +
      event(
          R"("choices":[{"index":0,"delta":{"content":"lo"},"logprobs":null,"finish_reason":null}],"usage":null})") +
      event(
          R"("choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":null})") +
      event(
          R"("choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9,"prompt_tokens_details":{"cached_tokens":4}}})") +
      "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";
  EXPECT_EQ(client->ReadUntil("0\r\n\r\n"), expected);
  // The connection goes on.
  client->Send(testing::HttpGet("/health"));
  EXPECT_EQ(client->ReadResponse().status, 200);
}

TEST_F(RestCallTest, CompletionsAnswerToo) {
  StartWith({});
  const auto whole =
      nlohmann::json::parse(Send(R"("logprobs":1)", "", "/v1/completions")->ReadResponse().body);
  EXPECT_EQ(whole["object"], "text_completion");
  EXPECT_EQ(whole["choices"][0]["text"], "Hello big world");
  EXPECT_EQ(whole["choices"][0]["logprobs"]["tokens"][1], " big");
  EXPECT_EQ(whole["choices"][0]["logprobs"]["text_offset"][2], 9);
  const std::string stream = Send(R"("stream":true)", "", "/v1/completions")->ReadResponse().body;
  EXPECT_THAT(stream, HasSubstr(R"("text":" big")"));
  EXPECT_TRUE(stream.ends_with("data: [DONE]\n\n"));
}

TEST_F(RestCallTest, SeveralChoicesEachHaveARole) {
  StartWith({});
  const std::string stream = Send(R"("stream":true,"n":2)")->ReadResponse().body;
  for (const char* index : {"0", "1"}) {
    EXPECT_THAT(stream,
                HasSubstr(std::string(R"({"index":)") + index + R"(,"delta":{"role":"assistant")"));
  }
  const auto whole = nlohmann::json::parse(Send(R"("n":2)")->ReadResponse().body);
  EXPECT_EQ(whole["choices"].size(), 2u);
  EXPECT_EQ(whole["usage"]["completion_tokens"], 6);
}

TEST_F(RestCallTest, SeveralPromptsAreOneAnswer) {
  StartWith({.reply = {"a", "b"}});
  const auto post = [this](const std::string& fields) {
    const std::string body = R"({"model":"demo","prompt":["x","yz"],"n":2)" + fields + "}";
    auto client = std::make_unique<RawHttpClient>(gateway_->port());
    EXPECT_TRUE(client->Send(HttpPost("/v1/completions", body, "X-Request-Timeout: 9\r\n")));
    return client;
  };
  const auto json = nlohmann::json::parse(post(R"(,"echo":true)")->ReadResponse().body);
  ASSERT_EQ(json["choices"].size(), 4u);
  const char* texts[] = {"xab", "xab", "yzab", "yzab"};
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(json["choices"][i]["index"], i);
    EXPECT_EQ(json["choices"][i]["text"], texts[i]);
  }
  EXPECT_EQ(json["usage"]["prompt_tokens"], 14);
  EXPECT_EQ(json["usage"]["completion_tokens"], 8);
  for (const GenerateRequest& request : intake_->Submitted()) {
    EXPECT_EQ(request.timeout_seconds, 9.0);
  }

  auto client = post(R"(,"stream":true,"stream_options":{"include_usage":true})");
  const std::string stream = client->ReadUntil("[DONE]");
  for (const char* index : {R"("index":0)", R"("index":1)", R"("index":2)", R"("index":3)"}) {
    EXPECT_THAT(stream, HasSubstr(index));
  }
  EXPECT_THAT(stream, HasSubstr(R"("prompt_tokens":14)"));
}

TEST_F(RestCallTest, OnePromptsFailureEndsThemAll) {
  StartWith({.late_error = absl::UnavailableError("lost")});
  const std::string body = R"({"model":"demo","prompt":["x","y","z"]})";
  RawHttpClient client(gateway_->port());
  ASSERT_TRUE(client.Send(HttpPost("/v1/completions", body, "")));
  EXPECT_EQ(client.ReadResponse().status, 503);
}

TEST_F(RestCallTest, AStreamOfSeveralPromptsBeginsWhenNoneIsRefused) {
  StartWith({.prefill = absl::Seconds(1),
             .early_error = InvalidField("prompt", "prompt has 0 tokens"),
             .early_error_of = "bad"},
            {.stream_head_grace = absl::Seconds(10)});
  RawHttpClient client(gateway_->port());
  ASSERT_TRUE(client.Send(
      HttpPost("/v1/completions", R"({"model":"demo","prompt":["x","bad"],"stream":true})", "")));
  const RawHttpResponse response = client.ReadResponse();
  EXPECT_EQ(response.status, 400);
  EXPECT_THAT(response.body, HasSubstr(R"("param":"prompt[1]")"));
}

TEST_F(RestCallTest, ADisconnectCancelsEveryPrompt) {
  StartWith({.never_finish = true});
  auto client = std::make_unique<RawHttpClient>(gateway_->port());
  ASSERT_TRUE(
      client->Send(HttpPost("/v1/completions", R"({"model":"demo","prompt":["x","y","z"]})", "")));
  ASSERT_TRUE(intake_->WaitForSubmitted(3, absl::Seconds(5)));
  client.reset();
  EXPECT_TRUE(intake_->WaitForCancelled(3, absl::Seconds(5)));
}

TEST_F(RestCallTest, AnEchoWithLogprobsStreams) {
  StartWith({.reply = {"c"}});
  auto client = Send(R"("stream":true,"echo":true,"logprobs":1)", "", "/v1/completions");
  const std::string stream = client->ReadUntil("[DONE]");
  EXPECT_THAT(stream, HasSubstr(R"("text":"h","logprobs":{"tokens":["h"],"token_logprobs":[null],)"
                                R"("top_logprobs":[null],"text_offset":[0]})"));
  EXPECT_THAT(stream, HasSubstr(R"("text":"i","logprobs":{"tokens":["i"],"token_logprobs":[-0.25],)"
                                R"("top_logprobs":[{"?":-0.125,"i":-0.25}],"text_offset":[1]})"));
  EXPECT_THAT(stream, HasSubstr(R"("text":"c","logprobs":{"tokens":["c"])"));
}

TEST_F(RestCallTest, ProgressIsSentToThoseWhoAsk) {
  const std::vector<ProgressEvent> progress = {
      {.prompt_tokens = 100, .cached_tokens = 10, .processed_tokens = 50, .eta_seconds = 2.5},
      {.prompt_tokens = 100, .cached_tokens = 10, .processed_tokens = 100, .eta_seconds = 0.0}};
  StartWith({.progress = progress});
  for (const char* fields : {R"("stream":true,"stream_options":{"include_progress":true})",
                             R"("stream":true,"return_progress":true)"}) {
    const std::string stream = Send(fields)->ReadResponse().body;
    EXPECT_THAT(stream,
                HasSubstr(R"("choices":[],"progress":{"prompt_tokens":100,)"
                          R"("cached_tokens":10,"processed_tokens":50,"eta_seconds":2.5}})"));
    EXPECT_THAT(stream, HasSubstr(R"("processed_tokens":100,"eta_seconds":0.0)"));
  }
  EXPECT_THAT(Send(R"("stream":true)")->ReadResponse().body, Not(HasSubstr("progress")));
}

TEST_F(RestCallTest, HeartbeatComesAlsoWhenNothingHappens) {
  StartWith({.prefill = absl::Milliseconds(300)}, {.heartbeat = absl::Milliseconds(50)});
  const std::string stream = Send(R"("stream":true)")->ReadResponse().body;
  EXPECT_TRUE(stream.starts_with(": heartbeat\n\n: heartbeat\n\n")) << stream;
  EXPECT_TRUE(stream.ends_with("data: [DONE]\n\n"));
}

TEST_F(RestCallTest, StreamHeadDoesNotWaitForTheQueue) {
  StartWith({.queue_delay = absl::Seconds(30)}, {.stream_head_grace = absl::Milliseconds(30)});
  auto client = Send(R"("stream":true)");
  EXPECT_THAT(client->ReadUntil("\r\n\r\n"), HasSubstr("200 OK"));
}

TEST_F(RestCallTest, EarlyErrorHasItsOwnStatusAlsoForStreams) {
  StartWith({.early_error = InvalidField("messages", "prompt has 2000 tokens, limit 1000")});
  for (const char* fields : {R"("stream":true)", R"("stream":false)"}) {
    const RawHttpResponse response = Send(fields)->ReadResponse();
    EXPECT_EQ(response.status, 400);
    EXPECT_EQ(response.body, R"({"error":{"message":"prompt has 2000 tokens, limit 1000",)"
                             R"("type":"invalid_request_error","param":"messages","code":null}})");
  }
}

TEST_F(RestCallTest, LateErrorEndsTheStream) {
  StartWith({.late_error = absl::InternalError("a rank is lost")});
  const RawHttpResponse stream = Send(R"("stream":true)")->ReadResponse();
  EXPECT_EQ(stream.status, 200);
  EXPECT_TRUE(stream.complete);
  EXPECT_TRUE(stream.body.ends_with(
      R"(data: {"error":{"message":"a rank is lost","type":"server_error","param":null,"code":null}})"
      "\n\ndata: [DONE]\n\n"))
      << stream.body;
  EXPECT_EQ(Send("")->ReadResponse().status, 500);
}

TEST_F(RestCallTest, StatusMap) {
  struct Case {
    absl::Status status;
    int http_status;
    const char* retry_after;  // null = none
  };
  const Case cases[] = {
      {absl::InvalidArgumentError("x"), 400, nullptr},
      {absl::UnauthenticatedError("x"), 401, nullptr},
      {absl::PermissionDeniedError("x"), 403, nullptr},
      {absl::NotFoundError("x"), 404, nullptr},
      {absl::ResourceExhaustedError("x"), 429, "1"},
      {WithRetryAfter(absl::ResourceExhaustedError("x"), 12.2), 429, "13"},
      {absl::UnavailableError("x"), 503, "1"},
      {absl::DeadlineExceededError("x"), 504, nullptr},
      {absl::InternalError("x"), 500, nullptr},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.status.ToString());
    StartWith({.submit_error = c.status});
    const RawHttpResponse response = Send("")->ReadResponse();
    EXPECT_EQ(response.status, c.http_status);
    EXPECT_EQ(response.headers.contains("retry-after"), c.retry_after != nullptr);
    if (c.retry_after != nullptr) {
      EXPECT_EQ(response.headers.at("retry-after"), c.retry_after);
    }
    EXPECT_TRUE(nlohmann::json::parse(response.body)["error"].contains("code"));
  }
}

TEST_F(RestCallTest, DisconnectCancels) {
  for (const char* fields : {R"("stream":true)", R"("stream":false)"}) {
    SCOPED_TRACE(fields);
    StartWith({.never_finish = true});
    auto client = Send(fields);
    ASSERT_TRUE(intake_->WaitForSubmitted(1, absl::Seconds(5)));
    client->Close();
    EXPECT_TRUE(intake_->WaitForCancelled(1, absl::Seconds(5)));
  }
}

TEST_F(RestCallTest, ReaderThatAcceptsNothingIsCancelled) {
  StartWith({.reply = std::vector<std::string>(500, std::string(20000, 'x')), .never_finish = true},
            {.write_timeout = absl::Milliseconds(200)});
  RawHttpClient client(gateway_->port(), /*receive_buffer_bytes=*/4096);
  client.Send(
      HttpPost("/v1/chat/completions",
               R"({"model":"demo","stream":true,"messages":[{"role":"user","content":"x"}]})"));
  EXPECT_TRUE(intake_->WaitForCancelled(1, absl::Seconds(5)));
}

TEST_F(RestCallTest, CarriesIdsInAndOut) {
  StartWith({});
  const std::string trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  const RawHttpResponse response =
      Send("", "X-Request-Id: job-7\r\ntraceparent: " + trace + "\r\n")->ReadResponse();
  EXPECT_EQ(response.headers.at("x-request-id"), "job-7");
  const GenerateRequest request = intake_->Submitted().at(0);
  EXPECT_EQ(request.client_request_id, "job-7");
  EXPECT_EQ(request.traceparent, trace);
  EXPECT_THAT(response.body, HasSubstr("chatcmpl-" + request.id.ToString()));
  Send("", "X-Request-Id: a b\r\ntraceparent: nonsense\r\n")->ReadResponse();
  const GenerateRequest other = intake_->Submitted().at(1);
  EXPECT_EQ(other.client_request_id, other.id.ToString());
  EXPECT_EQ(other.traceparent, "");
}

TEST_F(RestCallTest, ATimeoutComesFromTheBodyElseFromTheHead) {
  StartWith({});
  Send("", "X-Request-Timeout: 2.5\r\n")->ReadResponse();
  EXPECT_EQ(intake_->Submitted().at(0).timeout_seconds, 2.5);
  Send(R"("timeout":7)", "X-Request-Timeout: 2.5\r\n")->ReadResponse();
  EXPECT_EQ(intake_->Submitted().at(1).timeout_seconds, 7);
  const RawHttpResponse refused = Send("", "X-Request-Timeout: soon\r\n")->ReadResponse();
  EXPECT_EQ(refused.status, 400);
  EXPECT_THAT(refused.body, HasSubstr("X-Request-Timeout is \\\"soon\\\""));
}

TEST_F(RestCallTest, BadBodiesNameTheField) {
  StartWith({});
  const RawHttpResponse response = Send(R"("temperature":"hot")")->ReadResponse();
  EXPECT_EQ(response.status, 400);
  EXPECT_EQ(nlohmann::json::parse(response.body)["error"]["param"], "temperature");
}

}  // namespace
}  // namespace longhaul::router::rest
