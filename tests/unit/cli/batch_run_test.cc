#include "cli/batch_run.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "tests/testing/scripted_http_server.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"

namespace longhaul::cli {
namespace {

using Json = nlohmann::json;
using testing::ScriptedHttpServer;
using testing::StatusIs;

class BatchRunTest : public ::testing::Test {
 protected:
  BatchRunTest() : null_fd_(open("/dev/null", O_WRONLY)), console_(null_fd_) {}
  ~BatchRunTest() override { close(null_fd_); }

  // A file of requests with prompts 0 to num-1, their custom_ids the same.
  void WriteInput(int num) {
    std::string lines;
    for (int i = 0; i < num; i++) {
      const std::string number = std::to_string(i);
      lines += R"({"custom_id":")" + number + R"(","url":"/v1/completions","body":{"prompt":")" +
               number + "\"}}\n";
    }
    folder_.Write("in", lines);
    num_requests_ = num;
  }

  // Runs until the end, or `stop_after`, when it stops as told.
  absl::Status Run(const std::string& address, int concurrency = 1,
                   std::optional<absl::Status> stop_with = std::nullopt) {
    auto input = BatchInput::Open(folder_.path() + "/in", "demo");
    auto output = BatchOutput::Open(folder_.path() + "/out");
    EXPECT_OK(input.status());
    EXPECT_OK(output.status());
    boost::asio::io_context context;
    absl::Status result = absl::UnknownError("did not end");
    BatchRun run(context, **input, **output, console_,
                 {.address = address,
                  .concurrency = concurrency,
                  .num_requests = num_requests_,
                  .on_end = [&](const absl::Status& status) {
                    result = status;
                    context.stop();
                  }});
    if (stop_with.has_value()) {
      context.run_for(std::chrono::milliseconds(300));
      run.Stop(*stop_with);
      result = *stop_with;
    } else {
      context.run_for(std::chrono::seconds(20));
    }
    tally_ = run.tally();
    return result;
  }

  // The lines of the output by custom_id, each there once.
  std::map<std::string, Json> Results() const {
    std::map<std::string, Json> results;
    std::ifstream file(folder_.path() + "/out");
    for (std::string line; std::getline(file, line);) {
      const Json json = Json::parse(line);
      EXPECT_TRUE(results.emplace(json["custom_id"], json).second) << line;
    }
    return results;
  }

  const testing::TempDir folder_;
  const int null_fd_;
  Console console_;
  int64_t num_requests_ = 0;
  BatchRun::Tally tally_;
};

ScriptedHttpServer::Answer Echo(const ScriptedHttpServer::Request& request) {
  return {ScriptedHttpServer::Response(200, request.body)};
}

TEST_F(BatchRunTest, GivesEachRequestItsOwnAnswer) {
  WriteInput(50);
  ScriptedHttpServer server(Echo);
  EXPECT_OK(Run(server.address(), 8));
  EXPECT_EQ(tally_.succeeded, 50);
  const auto results = Results();
  EXPECT_EQ(results.size(), 50);
  for (const auto& [custom_id, result] : results) {
    EXPECT_EQ(result["response"]["body"], Json({{"model", "demo"}, {"prompt", custom_id}}));
  }
}

TEST_F(BatchRunTest, WaitsForAServerThatSaysLater) {
  WriteInput(3);
  std::atomic<int> asked = 0;
  ScriptedHttpServer server([&](const ScriptedHttpServer::Request& request) {
    const int number = asked++;
    if (number == 0) return ScriptedHttpServer::Answer{ScriptedHttpServer::Response(503, "{}")};
    if (number == 1) {
      return ScriptedHttpServer::Answer{
          ScriptedHttpServer::Response(429, "{}", "Retry-After: 1\r\n")};
    }
    return Echo(request);
  });
  const absl::Time begin = absl::Now();
  EXPECT_OK(Run(server.address()));
  EXPECT_GE(absl::Now() - begin, absl::Milliseconds(1400));
  EXPECT_EQ(tally_.succeeded, 3);
  EXPECT_EQ(server.num_requests(), 5);
}

TEST_F(BatchRunTest, KeepsErrorsThatStandAndTriesOthersAgainInTheNextRun) {
  WriteInput(4);
  std::atomic<bool> second_run = false;
  ScriptedHttpServer server([&](const ScriptedHttpServer::Request& request) {
    const std::string prompt = Json::parse(request.body)["prompt"];
    if (prompt == "1") return ScriptedHttpServer::Answer{ScriptedHttpServer::Response(400, "{}")};
    if (second_run) return Echo(request);
    if (prompt == "2") return ScriptedHttpServer::Answer{ScriptedHttpServer::Response(500, "{}")};
    if (prompt == "3") return ScriptedHttpServer::Answer{};  // closes
    return Echo(request);
  });
  EXPECT_OK(Run(server.address()));
  EXPECT_EQ(tally_.succeeded, 1);
  EXPECT_EQ(tally_.refused, 1);
  EXPECT_EQ(tally_.failed, 2);
  EXPECT_TRUE(Results().at("3")["response"].is_null());

  second_run = true;
  EXPECT_OK(Run(server.address(), 2));
  EXPECT_EQ(server.num_requests(), 6);
  EXPECT_EQ(tally_.succeeded, 3);
  EXPECT_EQ(tally_.refused, 1);
  EXPECT_EQ(tally_.earlier, 2);
  EXPECT_EQ(tally_.failed, 0);
  EXPECT_EQ(Results().size(), 4);
}

TEST_F(BatchRunTest, StoppedByASignalLeavesNoResult) {
  WriteInput(5);
  ScriptedHttpServer server([](const auto&) {
    return ScriptedHttpServer::Answer{"", /*stay_open=*/true};
  });
  EXPECT_OK(Run(server.address(), 2, absl::OkStatus()));
  EXPECT_TRUE(Results().empty());
}

TEST_F(BatchRunTest, StoppedByALossSaysSoForWhatWasInFlight) {
  WriteInput(5);
  ScriptedHttpServer server([](const auto&) {
    return ScriptedHttpServer::Answer{"", /*stay_open=*/true};
  });
  EXPECT_THAT(Run(server.address(), 2, absl::UnavailableError("leader gone")),
              StatusIs(absl::StatusCode::kUnavailable, ::testing::_));
  const auto results = Results();
  EXPECT_EQ(results.size(), 2);
  EXPECT_EQ(results.at("0")["error"]["message"], "leader gone");
  EXPECT_EQ(tally_.failed, 2);
}

TEST_F(BatchRunTest, RequestsWithAResultAreNotAskedAgain) {
  WriteInput(1000);
  std::string done;
  for (int i = 0; i < 999; i++) {
    done += EncodeBatchResponse("0", std::to_string(i), 200, "", "{}");
  }
  folder_.Write("out", done);
  ScriptedHttpServer server(Echo);
  EXPECT_OK(Run(server.address(), 3));
  EXPECT_EQ(server.num_requests(), 1);
  EXPECT_EQ(tally_.earlier, 999);
  EXPECT_EQ(Results().size(), 1000);
}

}  // namespace
}  // namespace longhaul::cli
