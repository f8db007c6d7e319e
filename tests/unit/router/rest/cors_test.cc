#include "router/rest/cors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

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
using longhaul::testing::StatusIs;
using ::testing::HasSubstr;

const std::string kPage = "https://app.example.org";
const std::string kOther = "https://evil.example.org";
const std::string kChatPath = "/v1/chat/completions";

// A whole edge, asked by pages in a browser.
class CorsTest : public ::testing::Test {
 protected:
  void Serve(const std::vector<std::string>& origins, FakeIntake::Options intake = {}) {
    gateway_.reset();
    auto policy = CorsPolicy::For(origins);
    ASSERT_OK(policy);
    intake_ = std::make_unique<FakeIntake>(std::move(intake));
    auto gateway = HttpGateway::Start({.port = 0, .max_body_bytes = 1000, .cors = *policy},
                                      *intake_, registry_);
    ASSERT_OK(gateway);
    gateway_ = *std::move(gateway);
  }
  RawHttpResponse Ask(const std::string& bytes) {
    RawHttpClient client(gateway_->port());
    client.Send(bytes);
    return client.ReadResponse();
  }
  RawHttpResponse Post(const std::string& path, const std::string& body,
                       const std::string& origin) {
    return Ask(HttpPost(path, body, origin.empty() ? "" : "Origin: " + origin + "\r\n"));
  }
  RawHttpResponse Preflight(const std::string& origin, const std::string& more = "") {
    RawHttpClient client(gateway_->port());
    client.Send("OPTIONS " + kChatPath + " HTTP/1.1\r\nHost: x\r\nOrigin: " + origin +
                "\r\nAccess-Control-Request-Method: POST\r\n" + more + "\r\n");
    RawHttpResponse response = client.ReadResponse();
    // The connection goes on, and no byte was left over.
    client.Send("GET /health HTTP/1.1\r\nHost: x\r\nX-Request-Id: next\r\n\r\n");
    EXPECT_EQ(client.ReadResponse().headers["x-request-id"], "next");
    return response;
  }

  prometheus::Registry registry_;
  std::unique_ptr<FakeIntake> intake_;
  std::unique_ptr<HttpGateway> gateway_;
};

const std::string kChat = R"({"model":"demo","messages":[{"role":"user","content":"hi"}]})";
const std::string kStream =
    R"({"model":"demo","stream":true,"messages":[{"role":"user","content":"hi"}]})";

TEST_F(CorsTest, EveryAnswerToAKnownPageSaysSo) {
  Serve({"http://localhost:5173", kPage});
  struct Case {
    const char* name;
    RawHttpResponse response;
    int status;
  };
  const std::string origin = "Origin: " + kPage + "\r\n";
  const Case cases[] = {
      {"whole", Post(kChatPath, kChat, kPage), 200},
      {"stream", Post(kChatPath, kStream, kPage), 200},
      {"bad field", Post(kChatPath, "{}", kPage), 400},
      {"no such path", Post("/nothing", "{}", kPage), 404},
      {"too large", Post(kChatPath, std::string(1001, ' '), kPage), 413},
      {"no length", Ask("POST " + kChatPath + " HTTP/1.1\r\nHost: x\r\n" + origin + "\r\n"), 411},
      {"wrong chunks",
       Ask("POST " + kChatPath + " HTTP/1.1\r\nHost: x\r\n" + origin +
           "Transfer-Encoding: chunked\r\n\r\nzz\r\n"),
       400},
      {"read only", Ask("GET /health HTTP/1.1\r\nHost: x\r\n" + origin + "\r\n"), 200},
  };
  for (Case c : cases) {
    SCOPED_TRACE(c.name);
    EXPECT_EQ(c.response.status, c.status);
    EXPECT_EQ(c.response.headers["access-control-allow-origin"], kPage);
    EXPECT_EQ(c.response.headers["access-control-expose-headers"], "X-Request-Id, Retry-After");
    EXPECT_EQ(c.response.headers["vary"], "Origin");
    EXPECT_FALSE(c.response.headers.contains("access-control-allow-credentials"));
  }
}

TEST_F(CorsTest, OtherPagesAndProgramsAreAnsweredWithoutIt) {
  Serve({kPage});
  for (const std::string& origin : {kOther, std::string("null"), kPage + ".evil", kPage + "/",
                                    std::string("http://app.example.org"), std::string()}) {
    SCOPED_TRACE(origin);
    RawHttpResponse response = Post(kChatPath, kChat, origin);
    EXPECT_EQ(response.status, 200);
    EXPECT_FALSE(response.headers.contains("access-control-allow-origin"));
    EXPECT_EQ(response.headers["vary"], "Origin");
  }
}

TEST_F(CorsTest, AStarIsForEveryPage) {
  Serve({"*"}, {.early_error = absl::ResourceExhaustedError("full")});
  RawHttpResponse response = Post(kChatPath, kStream, kOther);
  EXPECT_EQ(response.status, 429);
  EXPECT_EQ(response.headers["access-control-allow-origin"], "*");
  EXPECT_EQ(response.headers["access-control-expose-headers"], "X-Request-Id, Retry-After");
  EXPECT_FALSE(response.headers.contains("vary"));
  // Also where no head could be read.
  EXPECT_EQ(Ask("nonsense\r\n\r\n").headers["access-control-allow-origin"], "*");
  EXPECT_EQ(Preflight(kOther).headers["access-control-allow-origin"], "*");
}

TEST_F(CorsTest, APreflightLearnsWhatMayBeSent) {
  Serve({kPage});
  RawHttpResponse response = Preflight(
      kPage, "Access-Control-Request-Headers: authorization,content-type,x-stainless-os\r\n");
  EXPECT_EQ(response.status, 204);
  EXPECT_EQ(response.headers["access-control-allow-origin"], kPage);
  EXPECT_EQ(response.headers["access-control-allow-methods"], "GET, HEAD, POST");
  EXPECT_EQ(response.headers["access-control-allow-headers"],
            "authorization,content-type,x-stainless-os");
  EXPECT_EQ(response.headers["access-control-max-age"], "600");
  EXPECT_EQ(response.headers["vary"], "Origin");
  EXPECT_FALSE(response.headers.contains("content-length"));
  EXPECT_FALSE(response.headers.contains("content-type"));
}

TEST_F(CorsTest, APreflightGetsNoHeadersBackThatAreNone) {
  Serve({kPage});
  for (const std::string& names : {std::string(), std::string("a\tb"), std::string("a:b"),
                                   std::string("\xc3\xa4"), std::string(4097, 'a')}) {
    RawHttpResponse response =
        Preflight(kPage, "Access-Control-Request-Headers: " + names + "\r\n");
    EXPECT_EQ(response.status, 204);
    EXPECT_FALSE(response.headers.contains("access-control-allow-headers")) << names.size();
  }
}

TEST_F(CorsTest, APreflightOfAnotherPageIsRefusedByName) {
  Serve({kPage});
  const RawHttpResponse refused = Preflight(kOther);
  EXPECT_EQ(refused.status, 403);
  EXPECT_THAT(refused.body, HasSubstr(kOther));
  EXPECT_THAT(refused.body, HasSubstr("allowed-origins"));
  EXPECT_FALSE(refused.headers.contains("access-control-allow-origin"));
}

TEST_F(CorsTest, OptionsThatIsNoPreflightIsAMethodLikeOthers) {
  Serve({kPage});
  EXPECT_EQ(Ask("OPTIONS " + kChatPath + " HTTP/1.1\r\nHost: x\r\n\r\n").status, 405);
  EXPECT_EQ(
      Ask("OPTIONS " + kChatPath + " HTTP/1.1\r\nHost: x\r\nOrigin: " + kPage + "\r\n\r\n").status,
      405);
}

TEST_F(CorsTest, IsOffUnlessAskedFor) {
  Serve({});
  EXPECT_EQ(Preflight(kPage).status, 405);
  const RawHttpResponse response = Post(kChatPath, kChat, kPage);
  EXPECT_EQ(response.status, 200);
  EXPECT_FALSE(response.headers.contains("access-control-allow-origin"));
  EXPECT_FALSE(response.headers.contains("vary"));
}

TEST(CorsPolicy, RefusesWhatNoBrowserSends) {
  for (const char* origin :
       {"", "app.example.org", "https://", "://a", "https://app.example.org/", "https://a/b",
        "https://App.example.org", "https://*.example.org", "https://a b", "https://a\r\nX: y",
        "null", "https://a,https://b", "https://user@a"}) {
    EXPECT_THAT(CorsPolicy::For({kPage, origin}),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         HasSubstr("\"" + std::string(origin) + "\" is no origin")));
  }
  for (const char* origin :
       {"*", "http://localhost", "http://[::1]:8080", "app://-", "chrome-extension://abcdefgh"}) {
    EXPECT_OK(CorsPolicy::For({origin}));
  }
}

}  // namespace
}  // namespace longhaul::router::rest
