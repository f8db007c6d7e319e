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
  EXPECT_THAT(by_length.body, HasSubstr("1000 bytes"));
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
  EXPECT_EQ(Exchange(HttpPost(kPath, kChat, "Content-Encoding: br\r\n")).status, 415);
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
