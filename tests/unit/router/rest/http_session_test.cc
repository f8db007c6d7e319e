#include "router/rest/http_session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include <iostream>
#include <random>
#include <thread>

#include "router/rest/http_gateway.h"
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
using ::testing::HasSubstr;

const std::string kPath = "/v1/chat/completions";
const std::string kChat = R"({"model":"demo","messages":[{"role":"user","content":"hi"}]})";

class HttpSessionTest : public ::testing::Test {
 protected:
  void SetUp() override { StartWith({}); }
  void StartWith(HttpOptions options, FakeIntake::Options intake = {}) {
    gateway_.reset();
    options.port = 0;
    intake_ = std::make_unique<FakeIntake>(std::move(intake));
    auto gateway = HttpGateway::Start(options, *intake_, registry_);
    ASSERT_OK(gateway);
    gateway_ = *std::move(gateway);
    client_ = std::make_unique<RawHttpClient>(gateway_->port());
  }
  RawHttpResponse Exchange(const std::string& bytes) {
    client_->Send(bytes);
    return client_->ReadResponse();
  }

  prometheus::Registry registry_;
  std::unique_ptr<FakeIntake> intake_;
  std::unique_ptr<HttpGateway> gateway_;
  std::unique_ptr<RawHttpClient> client_;
};

TEST_F(HttpSessionTest, KeepsTheConnectionForManyRequests) {
  for (int i = 0; i < 5; i++) {
    EXPECT_EQ(Exchange(HttpPost(kPath, kChat)).status, 200);
    EXPECT_EQ(Exchange(HttpGet("/health")).status, 200);
  }
  EXPECT_EQ(Exchange("GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                .headers.at("connection"),
            "close");
  EXPECT_TRUE(client_->WaitForClose());
}

TEST_F(HttpSessionTest, SpeaksHttp10) {
  const RawHttpResponse whole = Exchange("GET /health HTTP/1.0\r\n\r\n");
  EXPECT_EQ(whole.status, 200);
  EXPECT_TRUE(client_->WaitForClose());
  client_ = std::make_unique<RawHttpClient>(gateway_->port());
  const std::string body =
      R"({"model":"demo","stream":true,"messages":[{"role":"user","content":"hi"}]})";
  const RawHttpResponse stream =
      Exchange("POST " + kPath + " HTTP/1.0\r\nContent-Length: " + std::to_string(body.size()) +
               "\r\n\r\n" + body);
  EXPECT_TRUE(stream.complete);
  EXPECT_FALSE(stream.headers.contains("transfer-encoding"));
  EXPECT_TRUE(stream.body.starts_with("data: {")) << stream.body;
  EXPECT_TRUE(stream.body.ends_with("data: [DONE]\n\n")) << stream.body;
}

TEST_F(HttpSessionTest, AnswersHeadWithoutABody) {
  client_->Send("HEAD /health HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_THAT(client_->ReadUntil("\r\n\r\n"), HasSubstr("Content-Length: 15\r\n"));
  EXPECT_EQ(Exchange(HttpGet("/health")).status, 200);  // no byte was left over
}

TEST_F(HttpSessionTest, ReadsARequestHoweverItIsCut) {
  const unsigned seed = std::random_device()();
  std::cout << "seed " << seed << std::endl;
  std::mt19937 random(seed);
  for (int round = 0; round < 20; round++) {
    const std::string request = HttpPost(kPath, kChat);
    for (size_t begin = 0; begin < request.size();) {
      const size_t size = 1 + random() % 40;
      client_->Send(std::string_view(request).substr(begin, size));
      begin += size;
      if (random() % 4 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    EXPECT_EQ(client_->ReadResponse().status, 200);
  }
}

TEST_F(HttpSessionTest, ReadsChunkedBodies) {
  std::string request =
      "POST " + kPath + " HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
  for (const char c : kChat) request += std::string("1;x=y\r\n") + c + "\r\n";
  EXPECT_EQ(Exchange(request + "0\r\nTrailer: t\r\n\r\n").status, 200);
  EXPECT_EQ(Exchange(HttpGet("/health")).status, 200);
}

TEST_F(HttpSessionTest, SaysContinueBeforeTheBodyIsSent) {
  const std::string request = HttpPost(kPath, kChat, "Expect: 100-continue\r\n");
  client_->Send(request.substr(0, request.find("\r\n\r\n") + 4));
  EXPECT_EQ(client_->ReadUntil("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  EXPECT_EQ(Exchange(kChat).status, 200);
}

TEST_F(HttpSessionTest, RefusesInsteadOfContinue) {
  EXPECT_EQ(Exchange("POST /nothing HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
                     "Content-Length: 9\r\n\r\n")
                .status,
            404);
  EXPECT_TRUE(client_->WaitForClose());
}

TEST_F(HttpSessionTest, RefusesTooLargeBodies) {
  StartWith({.max_body_bytes = 1000});
  // By its length, before a byte of it came.
  const RawHttpResponse by_length =
      Exchange("POST " + kPath + " HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n");
  EXPECT_EQ(by_length.status, 413);
  EXPECT_THAT(by_length.body, HasSubstr("the body of 1001 bytes is larger than the limit of 1000"));
  for (const char* length : {"2147483648", "9223372036854775808", "18446744073709551615"}) {
    client_ = std::make_unique<RawHttpClient>(gateway_->port());
    const RawHttpResponse huge = Exchange("POST " + kPath + " HTTP/1.1\r\nX-Request-Id: job-7\r\n" +
                                          "Content-Length: " + length + "\r\n\r\n");
    EXPECT_EQ(huge.status, 413) << length;
    EXPECT_EQ(huge.headers.at("x-request-id"), "job-7");
    EXPECT_TRUE(client_->WaitForClose());
  }
  // Whoever asks first learns it before the body is sent.
  client_ = std::make_unique<RawHttpClient>(gateway_->port());
  EXPECT_EQ(Exchange("POST " + kPath + " HTTP/1.1\r\nExpect: 100-continue\r\n" +
                     "Content-Length: 1001\r\n\r\n")
                .status,
            413);
  // By what comes, also when the client sends on without reading.
  client_ = std::make_unique<RawHttpClient>(gateway_->port());
  client_->Send("POST " + kPath + " HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
  for (int i = 0; i < 50; i++) client_->Send("64\r\n" + std::string(100, ' ') + "\r\n");
  EXPECT_EQ(client_->ReadResponse().status, 413);
}

TEST_F(HttpSessionTest, ReadsGzipAndBoundsWhatComesOutOfIt) {
  StartWith({.max_body_bytes = 100000});
  const auto gzip = [](const std::string& text) {
    std::string out(text.size() + 200, '\0');
    z_stream stream = {};
    deflateInit2(&stream, 9, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY);
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
    stream.avail_in = static_cast<uInt>(text.size());
    stream.next_out = reinterpret_cast<Bytef*>(out.data());
    stream.avail_out = static_cast<uInt>(out.size());
    EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
    out.resize(stream.total_out);
    deflateEnd(&stream);
    return out;
  };
  const std::string encoding = "Content-Encoding: gzip\r\n";
  EXPECT_EQ(Exchange(HttpPost(kPath, gzip(kChat), encoding)).status, 200);
  EXPECT_EQ(Exchange(HttpPost(kPath, gzip(std::string(1 << 20, ' ')), encoding)).status, 413);
  EXPECT_EQ(Exchange(HttpPost(kPath, "not gzip", encoding)).status, 400);
  EXPECT_EQ(
      Exchange(HttpPost(kPath, gzip(kChat.substr(0, 9)) + gzip(kChat.substr(9)), encoding)).status,
      200);
  // Neither member alone is too large.
  const std::string half = gzip(std::string(60000, ' '));
  EXPECT_EQ(Exchange(HttpPost(kPath, half + half, encoding)).status, 413);
  const RawHttpResponse garbage = Exchange(HttpPost(kPath, gzip(kChat) + "garbage", encoding));
  EXPECT_EQ(garbage.status, 400);
  EXPECT_THAT(garbage.body, HasSubstr("behind member 1"));
}

TEST_F(HttpSessionTest, RefusesContentItCannotReadBeforeItComes) {
  struct Case {
    const char* header;
    const char* message;  // a part of it
  };
  const Case cases[] = {
      {"Content-Encoding: br", R"(Content-Encoding is \"br\", only gzip and deflate)"},
      {"Content-Encoding: gzip, gzip", R"(Content-Encoding is \"gzip, gzip\")"},
      {"Content-Type: text/plain; charset=utf-8", R"(Content-Type is \"text/plain\", must be)"},
      {"Content-Type: multipart/form-data; boundary=x", "must be application/json"},
      {"Content-Type: application/x-www-form-urlencoded", "must be application/json"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.header);
    client_ = std::make_unique<RawHttpClient>(gateway_->port());
    const RawHttpResponse response =
        Exchange("POST " + kPath + " HTTP/1.1\r\nHost: x\r\n" + c.header +
                 "\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n");
    EXPECT_EQ(response.status, 415);
    EXPECT_THAT(response.body, HasSubstr(c.message));
    EXPECT_TRUE(client_->WaitForClose());
  }
}

TEST_F(HttpSessionTest, ReadsJsonUnderEachOfItsNames) {
  for (const char* type : {"", "Content-Type:\r\n", "Content-Type: application/json\r\n",
                           "Content-Type: Application/JSON ; charset=UTF-8\r\n",
                           "Content-Type: application/vnd.api+json\r\n"}) {
    EXPECT_EQ(Exchange("POST " + kPath + " HTTP/1.1\r\nHost: x\r\n" + type +
                       "Content-Length: " + std::to_string(kChat.size()) + "\r\n\r\n" + kChat)
                  .status,
              200)
        << type;
  }
}

TEST_F(HttpSessionTest, APostSaysHowLongItIs) {
  const RawHttpResponse none = Exchange("POST " + kPath + " HTTP/1.1\r\nHost: x\r\n\r\n" + kChat);
  EXPECT_EQ(none.status, 411);
  EXPECT_THAT(none.body, HasSubstr("Content-Length"));
  EXPECT_TRUE(client_->WaitForClose());  // what follows may be a body
  client_ = std::make_unique<RawHttpClient>(gateway_->port());
  const RawHttpResponse empty = Exchange(HttpPost(kPath, ""));
  EXPECT_EQ(empty.status, 400);
  EXPECT_THAT(empty.body, HasSubstr("the body is empty"));
  EXPECT_EQ(Exchange(HttpGet("/health")).status, 200);
}

TEST_F(HttpSessionTest, OnlyChunkedCanEncodeTheTransfer) {
  for (const char* coding : {"gzip", "gzip, chunked", "chunked, gzip", "identity",
                             "gzip\r\nTransfer-Encoding: chunked"}) {
    SCOPED_TRACE(coding);
    client_ = std::make_unique<RawHttpClient>(gateway_->port());
    const RawHttpResponse response = Exchange("POST " + kPath + " HTTP/1.1\r\nHost: x\r\n" +
                                              "Transfer-Encoding: " + coding + "\r\n\r\n" + kChat);
    EXPECT_TRUE(response.status == 400 || response.status == 501) << response.status;
    EXPECT_TRUE(client_->WaitForClose());
  }
}

TEST_F(HttpSessionTest, OtherVersionsOfHttpAreRefused) {
  for (const char* bytes :
       {"GET /health HTTP/1.2\r\nHost: x\r\n\r\n", "GET /health HTTP/0.9\r\n\r\n",
        "GET /health HTTP/3.0\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"}) {
    SCOPED_TRACE(bytes);
    client_ = std::make_unique<RawHttpClient>(gateway_->port());
    const RawHttpResponse response = Exchange(bytes);
    EXPECT_EQ(response.status, 505);
    EXPECT_THAT(response.body, HasSubstr(R"("type":"invalid_request_error")"));
    EXPECT_THAT(response.body, HasSubstr("HTTP/1.1"));
    EXPECT_FALSE(response.headers.contains("retry-after"));
    EXPECT_EQ(response.headers.at("connection"), "close");
    EXPECT_TRUE(client_->WaitForClose());
  }
}

TEST_F(HttpSessionTest, RefusesTooLargeHeads) {
  EXPECT_EQ(Exchange("GET /health HTTP/1.1\r\nX: " + std::string(40000, 'x') + "\r\n\r\n").status,
            431);
  EXPECT_TRUE(client_->WaitForClose());
}

TEST_F(HttpSessionTest, RefusesGarbage) {
  for (const char* garbage :
       {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", "hello\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n", "GET /health HTTP/1.1\r\nno colon\r\n\r\n",
        "POST /tokenize HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        "POST /tokenize HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST /tokenize HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"}) {
    SCOPED_TRACE(garbage);
    client_ = std::make_unique<RawHttpClient>(gateway_->port());
    const RawHttpResponse response = Exchange(garbage);
    EXPECT_TRUE(response.status == 400 || response.status == 505) << response.status;
    EXPECT_TRUE(client_->WaitForClose());
  }
}

TEST_F(HttpSessionTest, PipelinedRequestIsRefusedByClosingAfterTheResponse) {
  StartWith({}, {.prefill = absl::Milliseconds(100)});
  client_->Send(HttpPost(kPath, kChat));
  ASSERT_TRUE(intake_->WaitForSubmitted(1, absl::Seconds(5)));
  client_->Send(HttpPost(kPath, kChat));
  const RawHttpResponse response = client_->ReadResponse();
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.headers.at("connection"), "close");
  EXPECT_TRUE(client_->WaitForClose());
  EXPECT_EQ(intake_->Submitted().size(), 1u);
}

TEST_F(HttpSessionTest, PipelinedWithTheRequestIsRefusedToo) {
  const RawHttpResponse response = Exchange(HttpPost(kPath, kChat) + HttpPost(kPath, kChat));
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.headers.at("connection"), "close");
  EXPECT_TRUE(client_->WaitForClose());
}

TEST_F(HttpSessionTest, PipelinedBehindAnAnswerThatIsReadyIsRefusedAlike) {
  for (const char* first : {"/health", "/nothing"}) {
    client_ = std::make_unique<RawHttpClient>(gateway_->port());
    EXPECT_EQ(Exchange(HttpGet(first) + HttpPost(kPath, kChat)).headers.at("connection"), "close");
    EXPECT_TRUE(client_->WaitForClose());
  }
  EXPECT_EQ(intake_->Submitted().size(), 0u);
}

TEST_F(HttpSessionTest, PipelinedBytesAreDroppedHoweverManyTheyAre) {
  StartWith({}, {.never_finish = true});
  client_->Send(HttpPost(kPath, kChat));
  ASSERT_TRUE(intake_->WaitForSubmitted(1, absl::Seconds(5)));
  // Far more than any buffer on the way: they are read, or this would block.
  const std::string many = HttpPost(kPath, std::string(1 << 20, ' '));
  for (int i = 0; i < 16; i++) ASSERT_TRUE(client_->Send(many));
  gateway_->Stop();
  EXPECT_EQ(client_->ReadResponse().headers["connection"], "close");
  EXPECT_EQ(intake_->Submitted().size(), 1u);
}

TEST_F(HttpSessionTest, EmptyLinesAroundRequestsMeanNothing) {
  StartWith({}, {.prefill = absl::Milliseconds(50)});
  EXPECT_EQ(Exchange("\r\n\r\n" + HttpPost(kPath, kChat) + "\r\n").status, 200);
  client_->Send("\r");
  client_->Send("\n");
  client_->Send(HttpPost(kPath, kChat));
  ASSERT_TRUE(intake_->WaitForSubmitted(2, absl::Seconds(5)));
  client_->Send("\r\n");
  EXPECT_EQ(client_->ReadResponse().status, 200);
  const RawHttpResponse last = Exchange(HttpGet("/health"));
  EXPECT_EQ(last.status, 200);
  EXPECT_FALSE(last.headers.contains("connection"));
}

TEST_F(HttpSessionTest, AHalfClosedConnectionCountsAsADisconnectAndIsTold) {
  StartWith({}, {.never_finish = true});
  client_->Send(HttpPost(kPath, kChat));
  ASSERT_TRUE(intake_->WaitForSubmitted(1, absl::Seconds(5)));
  client_->CloseSending();
  EXPECT_TRUE(intake_->WaitForCancelled(1, absl::Seconds(5)));
  const RawHttpResponse response = client_->ReadResponse();
  EXPECT_EQ(response.status, 499);
  EXPECT_THAT(response.body, HasSubstr("closed its side of the connection"));
  EXPECT_TRUE(client_->WaitForClose());
}

TEST_F(HttpSessionTest, AHalfClosedConnectionEndsItsStreamWithTheReason) {
  StartWith({}, {.never_finish = true});
  client_->Send(HttpPost(
      kPath, R"({"model":"demo","stream":true,"messages":[{"role":"user","content":"hi"}]})"));
  client_->ReadUntil("world");
  client_->CloseSending();
  EXPECT_TRUE(intake_->WaitForCancelled(1, absl::Seconds(5)));
  const std::string rest = client_->ReadUntil("data: [DONE]\n\n\r\n0\r\n\r\n");
  EXPECT_THAT(rest, HasSubstr("closed its side of the connection"));
  EXPECT_TRUE(rest.ends_with("0\r\n\r\n")) << rest;
  EXPECT_TRUE(client_->WaitForClose());
}

TEST_F(HttpSessionTest, WhatNobodyCouldCancelIsAnsweredToAHalfClosedConnection) {
  for (const std::string& request :
       {HttpGet("/health"), HttpPost("/tokenize", R"({"prompt":"AB"})"),
        HttpPost(kPath, "{}", "Content-Encoding: br\r\n")}) {
    client_ = std::make_unique<RawHttpClient>(gateway_->port());
    client_->Send(request);
    client_->CloseSending();
    EXPECT_TRUE(client_->ReadResponse().complete) << request;
    EXPECT_TRUE(client_->WaitForClose());
  }
}

TEST_F(HttpSessionTest, ADisconnectIsSeenBehindPipelinedBytes) {
  StartWith({}, {.never_finish = true});
  client_->Send(HttpPost(kPath, kChat) + HttpGet("/health"));
  ASSERT_TRUE(intake_->WaitForSubmitted(1, absl::Seconds(5)));
  client_->Close();
  EXPECT_TRUE(intake_->WaitForCancelled(1, absl::Seconds(5)));
}

TEST_F(HttpSessionTest, HeadThatDoesNotEndIsCutOff) {
  StartWith({.header_timeout = absl::Milliseconds(150)});
  client_->Send("GET /health HTTP/1.1\r\n");
  const auto begin = std::chrono::steady_clock::now();
  bool open = true;
  // A byte now and then does not help.
  for (int i = 0; i < 40 && open; i++) {
    open = client_->Send("a") && client_->ReadUntil("408", std::chrono::milliseconds(20)).empty();
  }
  EXPECT_FALSE(open);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(700));
}

TEST_F(HttpSessionTest, HalfABodyAndSilenceIsCutOff) {
  StartWith({.body_timeout = absl::Milliseconds(100)});
  const std::string request = HttpPost(kPath, kChat);
  EXPECT_EQ(Exchange(request.substr(0, request.size() - 10)).status, 408);
  EXPECT_TRUE(client_->WaitForClose());
}

TEST_F(HttpSessionTest, ABodyThatDripsIsCutOff) {
  StartWith({.body_timeout = absl::Milliseconds(150)});
  const std::string request = HttpPost(kPath, std::string(100, ' '));
  client_->Send(request.substr(0, request.size() - 100));
  const auto begin = std::chrono::steady_clock::now();
  std::string answer;
  for (int i = 0; i < 40 && answer.empty(); i++) {
    if (!client_->Send(" ")) break;
    answer = client_->ReadUntil("\r\n\r\n", std::chrono::milliseconds(20));
  }
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 408 Request Timeout\r\n")) << answer;
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(700));
}

TEST_F(HttpSessionTest, ChunkedHalfABodyAndSilenceIsCutOff) {
  StartWith({.body_timeout = absl::Milliseconds(100)});
  const RawHttpResponse response =
      Exchange("POST " + kPath + " HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"mo");
  EXPECT_EQ(response.status, 408);
  EXPECT_THAT(response.body, HasSubstr("did not arrive in time"));
  EXPECT_TRUE(client_->WaitForClose());
}

TEST_F(HttpSessionTest, IdleConnectionsEnd) {
  StartWith({.idle_timeout = absl::Milliseconds(100)});
  EXPECT_TRUE(client_->WaitForClose(std::chrono::milliseconds(2000)));
}

TEST_F(HttpSessionTest, SurvivesClientsThatVanishAnywhere) {
  const std::string request = HttpPost(kPath, kChat);
  for (size_t size = 0; size <= request.size(); size += 7) {
    RawHttpClient client(gateway_->port());
    client.Send(std::string_view(request).substr(0, size));
  }
  EXPECT_EQ(Exchange(request).status, 200);
}

}  // namespace
}  // namespace longhaul::router::rest
