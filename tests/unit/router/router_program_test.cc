// The program itself: its ready line, both frontends, its end.
#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <gtest/gtest.h>
#include <signal.h>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "common/subprocess.h"
#include "longhaul/v1/inference.grpc.pb.h"
#include "tests/testing/fake_worker.h"
#include "tests/testing/paths.h"
#include "tests/testing/raw_http_client.h"
#include "tests/testing/status_matchers.h"

namespace longhaul::router {
namespace {

using longhaul::testing::FakeBehavior;
using longhaul::testing::FakeExecution;
using longhaul::testing::FakeWorker;
using longhaul::testing::HttpGet;
using longhaul::testing::HttpPost;
using longhaul::testing::ProgramPath;
using longhaul::testing::RawHttpClient;
using longhaul::testing::RawHttpResponse;
using longhaul::testing::SourcePath;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class RouterProgramTest : public ::testing::Test {
 protected:
  void StartProgram(std::vector<std::string> more = {}) {
    ASSERT_OK_AND_ASSIGN(worker_, FakeWorker::Start({}));
    std::vector<std::string> argv = {ProgramPath("longhaul-router"),
                                     "--model",
                                     SourcePath("models/demo"),
                                     "--port",
                                     "0",
                                     "--grpc-port",
                                     "0",
                                     "--worker",
                                     worker_->address()};
    argv.insert(argv.end(), more.begin(), more.end());
    ASSERT_OK_AND_ASSIGN(program_, Subprocess::Start({.argv = argv, .capture_stdout = true}));
    ASSERT_OK_AND_ASSIGN(const std::string line,
                         program_->ReadLine(absl::Now() + absl::Seconds(20)));
    ASSERT_THAT(line, StartsWith("ready role=router rest=127.0.0.1:"));
    const std::vector<std::string> words = absl::StrSplit(line, ' ');
    ASSERT_EQ(words.size(), 4u) << line;
    rest_ = words[2].substr(std::string("rest=").size());
    ASSERT_THAT(words[3], StartsWith("grpc="));
    grpc_ = words[3].substr(std::string("grpc=").size());
    stub_ = v1::Inference::NewStub(grpc::CreateChannel(grpc_, grpc::InsecureChannelCredentials()));
  }

  static v1::CompleteRequest Complete() {
    v1::CompleteRequest request;
    request.set_model("demo");
    request.set_prompt("abc");
    request.mutable_options()->mutable_stopping()->set_max_tokens(5);
    return request;
  }

  std::unique_ptr<FakeWorker> worker_;
  std::unique_ptr<Subprocess> program_;
  std::string rest_;
  std::string grpc_;
  std::unique_ptr<v1::Inference::Stub> stub_;
};

TEST_F(RouterProgramTest, ServesBothFrontendsAndEndsInOrder) {
  StartProgram();
  grpc::ClientContext context;
  const auto reader = stub_->Complete(&context, Complete());
  int num_tokens = 0;
  v1::GenerateEvent event;
  while (reader->Read(&event)) num_tokens += event.delta().tokens_size();
  const grpc::Status status = reader->Finish();
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(num_tokens, 5);

  int port = 0;
  ASSERT_TRUE(absl::SimpleAtoi(rest_.substr(rest_.find(':') + 1), &port));
  RawHttpClient rest(port);
  rest.Send(
      HttpPost("/v1/chat/completions",
               R"({"model":"demo","max_tokens":5,"messages":[{"role":"user","content":"hi"}]})",
               "Content-Type: application/json\r\n"));
  const RawHttpResponse chat = rest.ReadResponse();
  EXPECT_EQ(chat.status, 200) << chat.body;
  EXPECT_THAT(chat.body, HasSubstr("\"completion_tokens\":5"));
  RawHttpClient scraper(port);
  scraper.Send(HttpGet("/metrics"));
  EXPECT_THAT(scraper.ReadResponse().body,
              HasSubstr("longhaul_router_requests_total{outcome=\"length\"} 2"));

  program_->Signal(SIGTERM);
  const auto exit = program_->Wait(absl::Now() + absl::Seconds(5));
  ASSERT_TRUE(exit.has_value());
  EXPECT_EQ(exit->code, 0) << exit->ToString();
  EXPECT_EQ(exit->signal, 0) << exit->ToString();
}

TEST_F(RouterProgramTest, SigtermEndsRunningRequestsWithinItsGrace) {
  StartProgram({"--shutdown-seconds", "0.5"});
  FakeBehavior hanging;
  hanging.hang_after_tokens = 1;
  worker_->SetBehavior(hanging);
  grpc::ClientContext context;
  const auto reader = stub_->Complete(&context, Complete());
  v1::GenerateEvent event;
  while (reader->Read(&event) && !event.has_delta()) {
  }
  program_->Signal(SIGTERM);
  while (reader->Read(&event)) {
  }
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(status.error_message(), HasSubstr("shutting down"));
  const auto exit = program_->Wait(absl::Now() + absl::Seconds(5));
  ASSERT_TRUE(exit.has_value());
  EXPECT_EQ(exit->code, 0) << exit->ToString();
  EXPECT_TRUE(
      worker_->WaitFor([](const std::vector<FakeExecution>& e) { return e.at(0).cancelled; }));
}

TEST(RouterProgram, NamesWhatItMisses) {
  struct Case {
    std::vector<std::string> arguments;
    int code;
  };
  const Case cases[] = {
      {{"--worker", "127.0.0.1:1"}, 1},
      {{"--model", SourcePath("models/demo")}, 1},
      {{"--model", "/nonexistent", "--worker", "127.0.0.1:1"}, 1},
      {{"--port", "-1"}, 2},
  };
  for (const Case& c : cases) {
    std::vector<std::string> argv = {ProgramPath("longhaul-router")};
    argv.insert(argv.end(), c.arguments.begin(), c.arguments.end());
    ASSERT_OK_AND_ASSIGN(const auto program,
                         Subprocess::Start({.argv = argv, .capture_stdout = true}));
    const auto exit = program->Wait(absl::Now() + absl::Seconds(10));
    ASSERT_TRUE(exit.has_value());
    EXPECT_EQ(exit->code, c.code) << c.arguments[0] << ": " << exit->ToString();
  }
}

}  // namespace
}  // namespace longhaul::router
