#include "cli/batch_codec.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/testing/status_matchers.h"

namespace longhaul::cli {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;
using testing::StatusIs;

TEST(DecodeBatchRequest, TakesTheBodyAsItCame) {
  const BatchRequest request = DecodeBatchRequest(
      R"( {"custom_id":"a\"é","method":"POST","url":"/v1/completions","extra":[{}],)"
      R"("body":{"model":"m","x":1e400, "x":[1,{"body":{}}]}} )",
      "demo");
  ASSERT_OK(request.fault);
  EXPECT_EQ(request.custom_id, "a\"é");
  EXPECT_EQ(request.path, "/v1/completions");
  EXPECT_EQ(request.body, R"({"model":"m","x":1e400, "x":[1,{"body":{}}]})");
}

TEST(DecodeBatchRequest, AddsTheModelWhereItIsAbsent) {
  const auto body_of = [](const std::string& body) {
    return DecodeBatchRequest(
               R"({"body":)" + body + R"(,"url":"/v1/chat/completions","custom_id":"a"})", "d\"m")
        .body;
  };
  EXPECT_EQ(Json::parse(body_of("{}")), Json({{"model", "d\"m"}}));
  EXPECT_EQ(Json::parse(body_of("{ }")), Json({{"model", "d\"m"}}));
  EXPECT_EQ(Json::parse(body_of(R"({"a":{"model":"x"}})")),
            Json({{"model", "d\"m"}, {"a", {{"model", "x"}}}}));
  EXPECT_EQ(Json::parse(body_of(R"({"mod\u0065l":"x"})")), Json({{"model", "x"}}));
}

struct FaultCase {
  const char* line;
  const char* custom_id;  // null = none is known
  const char* says;
};

TEST(DecodeBatchRequest, NamesWhatIsWrong) {
  for (const FaultCase& item : {
           FaultCase{"", nullptr, "no JSON object"},
           FaultCase{"[1]", nullptr, "no JSON object"},
           FaultCase{"\"text\"", nullptr, "no JSON object"},
           FaultCase{R"({"custom_id":"a")", nullptr, "no JSON object"},
           FaultCase{R"({"custom_id":"a"}{})", "a", "more than one"},
           FaultCase{R"({"custom_id":"a"} x)", nullptr, "no JSON object"},
           FaultCase{"{}", nullptr, "custom_id is missing"},
           FaultCase{R"({"custom_id":null})", nullptr, "custom_id must be a string"},
           FaultCase{R"({"custom_id":""})", nullptr, "0 bytes"},
           FaultCase{R"({"custom_id":"a","method":"GET"})", "a", "\"GET\""},
           FaultCase{R"({"custom_id":"a"})", "a", "url is missing"},
           FaultCase{R"({"custom_id":"a","url":7})", "a", "url must be a string"},
           FaultCase{R"({"custom_id":"a","url":"/v1/chat/completions/"})", "a", "/v1/completions"},
           FaultCase{R"({"custom_id":"a","url":"/v1/completions"})", "a", "body is missing"},
           FaultCase{R"({"custom_id":"a","url":"/v1/completions","body":[]})", "a",
                     "body must be an object"},
           FaultCase{R"({"custom_id":"a","url":"/v1/completions","body":{"stream" : true}})", "a",
                     "stream"},
           FaultCase{"{\"custom_id\":\"a\xff\"}", nullptr, "UTF-8 at its byte 15"},
       }) {
    const BatchRequest request = DecodeBatchRequest(item.line, "demo");
    EXPECT_THAT(request.fault, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(item.says)))
        << item.line;
    EXPECT_EQ(request.custom_id.value_or("none"),
              item.custom_id == nullptr ? "none" : item.custom_id)
        << item.line;
    EXPECT_EQ(request.body, "") << item.line;
  }
  EXPECT_THAT(
      DecodeBatchRequest(R"({"custom_id":")" + std::string(513, 'x') + R"("})", "demo").fault,
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("513")));
}

TEST(DecodeBatchRequest, ADeepBodyIsTheServersToRefuse) {
  const std::string deep = std::string(500, '[') + std::string(500, ']');
  EXPECT_OK(DecodeBatchRequest(
                R"({"custom_id":"a","url":"/v1/completions","body":{"prompt":)" + deep + "}}", "d")
                .fault);
}

TEST(EncodeBatchResponse, IsOneLineThatIsReadBack) {
  const std::string line =
      EncodeBatchResponse("1", "a\n\"", 200, "r", "{\n \"text\": \"b\\n\"\r\n}");
  EXPECT_EQ(line.find('\n'), line.size() - 1);
  EXPECT_EQ(
      Json::parse(line),
      Json({{"id", "batch_req_1"},
            {"custom_id", "a\n\""},
            {"response", {{"status_code", 200}, {"request_id", "r"}, {"body", {{"text", "b\n"}}}}},
            {"error", nullptr}}));
  ASSERT_OK_AND_ASSIGN(const BatchResultInfo info, DecodeBatchResult(line));
  EXPECT_EQ(info.custom_id, "a\n\"");
  EXPECT_TRUE(info.succeeded);
  EXPECT_TRUE(info.final);
}

TEST(EncodeBatchResponse, TakesABodyThatIsNoJson) {
  const std::string line = EncodeBatchResponse("1", "a", 502, "", "<html>\n\xff");
  EXPECT_EQ(Json::parse(line)["response"]["body"], "<html>\n\uFFFD");
}

TEST(EncodeBatchFault, IsARefusalThatStandsIfItHasAnId) {
  const absl::Status fault = absl::InvalidArgumentError("line 3: \"x\"");
  const std::string line = EncodeBatchFault("1", "a", fault);
  EXPECT_EQ(Json::parse(line)["response"]["body"]["error"]["message"], "line 3: \"x\"");
  ASSERT_OK_AND_ASSIGN(const BatchResultInfo info, DecodeBatchResult(line));
  EXPECT_FALSE(info.succeeded);
  EXPECT_TRUE(info.final);
  ASSERT_OK_AND_ASSIGN(const BatchResultInfo nameless,
                       DecodeBatchResult(EncodeBatchFault("1", std::nullopt, fault)));
  EXPECT_FALSE(nameless.custom_id.has_value());
  EXPECT_FALSE(nameless.final);
}

TEST(EncodeBatchFailure, IsTriedAgain) {
  const std::string line = EncodeBatchFailure("1", "a", absl::UnavailableError("gone"));
  EXPECT_EQ(Json::parse(line)["error"]["message"], "gone");
  EXPECT_TRUE(Json::parse(line)["response"].is_null());
  ASSERT_OK_AND_ASSIGN(const BatchResultInfo info, DecodeBatchResult(line));
  EXPECT_EQ(info.custom_id, "a");
  EXPECT_FALSE(info.final);
}

TEST(DecodeBatchResult, ReadsWhatVllmWrites) {
  ASSERT_OK_AND_ASSIGN(
      const BatchResultInfo info,
      DecodeBatchResult(R"({"id":"vllm-1","custom_id":"a","response":{"status_code":200,)"
                        R"("request_id":"vllm-batch-2","body":{"choices":[]}},"error":null})"));
  EXPECT_TRUE(info.succeeded);
}

TEST(DecodeBatchResult, RefusesOtherLines) {
  for (const char* line : {"", "text", "[]", "{}", R"({"custom_id":"a"})",
                           R"({"custom_id":"a","method":"POST","url":"/","body":{}})"}) {
    EXPECT_THAT(DecodeBatchResult(line), StatusIs(absl::StatusCode::kInvalidArgument, ::testing::_))
        << line;
  }
}

TEST(IsFinalStatus, TellsRequestsFromMoments) {
  for (const int status : {200, 400, 401, 403, 404, 413}) EXPECT_TRUE(IsFinalStatus(status));
  for (const int status : {408, 429, 499, 500, 501, 503, 504}) EXPECT_FALSE(IsFinalStatus(status));
}

TEST(MayBeTornResult, KnowsEveryBeginningOfAResult) {
  const std::string line = EncodeBatchResponse("1", "a", 200, "r", "{}");
  for (size_t size = 0; size < line.size(); size++) {
    EXPECT_TRUE(MayBeTornResult(line.substr(0, size))) << size;
  }
  EXPECT_FALSE(MayBeTornResult(R"({"custom_id":"a")"));
  EXPECT_FALSE(MayBeTornResult("text"));
}

}  // namespace
}  // namespace longhaul::cli
