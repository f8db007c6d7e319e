#include "cli/prompt_codec.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/testing/status_matchers.h"

namespace longhaul::cli {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;
using testing::StatusIs;

TEST(PromptBody, LeavesOutWhatIsNotGiven) {
  ASSERT_OK_AND_ASSIGN(const std::string body, PromptBody({}, "demo", "a \"prompt\"\n"));
  Json json = Json::parse(body);
  EXPECT_EQ(json["messages"], Json::parse(R"([{"role":"user","content":"a \"prompt\"\n"}])"));
  json.erase("messages");
  json.erase("stream_options");
  EXPECT_EQ(json, Json({{"model", "demo"}, {"stream", true}}));
}

TEST(PromptBody, CarriesEveryOption) {
  const PromptOptions options{.raw = false,
                              .system = "be brief",
                              .max_tokens = 0,
                              .temperature = 0.5,
                              .top_p = 0.9,
                              .top_k = 40,
                              .min_p = 0.1,
                              .repetition_penalty = 1.05,
                              .seed = int64_t{1} << 62,
                              .stop = {"a", "b"},
                              .ignore_eos = true};
  ASSERT_OK_AND_ASSIGN(const std::string body, PromptBody(options, "demo", "hi"));
  const Json json = Json::parse(body);
  EXPECT_EQ(json["messages"][0], Json({{"role", "system"}, {"content", "be brief"}}));
  EXPECT_EQ(json["max_tokens"], 0);
  EXPECT_EQ(json["temperature"], 0.5);
  EXPECT_EQ(json["top_p"], 0.9);
  EXPECT_EQ(json["top_k"], 40);
  EXPECT_EQ(json["min_p"], 0.1);
  EXPECT_EQ(json["repetition_penalty"], 1.05);
  EXPECT_EQ(json["seed"], int64_t{1} << 62);
  EXPECT_EQ(json["stop"], Json({"a", "b"}));
  EXPECT_EQ(json["ignore_eos"], true);
}

TEST(PromptBody, ARawPromptIsACompletion) {
  ASSERT_OK_AND_ASSIGN(const std::string body, PromptBody({.raw = true}, "demo", "text"));
  EXPECT_EQ(Json::parse(body)["prompt"], "text");
  EXPECT_FALSE(Json::parse(body).contains("messages"));
  EXPECT_EQ(PromptPath({.raw = true}), "/v1/completions");
}

TEST(PromptBody, RefusesOptionsThatAreNoText) {
  EXPECT_THAT(PromptBody({.system = "\xff"}, "demo", "x"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--system")));
  EXPECT_THAT(PromptBody({.stop = {"a", "\xc0\x80"}}, "demo", "x"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--stop")));
}

TEST(ParsePromptEvent, ReadsChatAndCompletionChunks) {
  ASSERT_OK_AND_ASSIGN(
      const PromptEvent chat,
      ParsePromptEvent(R"({"choices":[{"delta":{"content":"hé"},"finish_reason":null}]})"));
  EXPECT_EQ(chat.text, "hé");
  EXPECT_EQ(chat.finish_reason, "");
  ASSERT_OK_AND_ASSIGN(const PromptEvent text,
                       ParsePromptEvent(R"({"choices":[{"text":"x","finish_reason":"stop"}]})"));
  EXPECT_EQ(text.text, "x");
  EXPECT_EQ(text.finish_reason, "stop");
  ASSERT_OK_AND_ASSIGN(
      const PromptEvent progress,
      ParsePromptEvent(R"({"choices":[],"usage":null,"progress":{"prompt_tokens":10,)"
                       R"("processed_tokens":4,"eta_seconds":1.5}})"));
  EXPECT_EQ(progress.progress->processed_tokens, 4);
  EXPECT_EQ(progress.progress->eta_seconds, 1.5);
  EXPECT_FALSE(progress.usage.has_value());
  ASSERT_OK_AND_ASSIGN(const PromptEvent done, ParsePromptEvent("[DONE]"));
  EXPECT_TRUE(done.done);
  ASSERT_OK_AND_ASSIGN(const PromptEvent error,
                       ParsePromptEvent(R"({"error":{"message":"too long"}})"));
  EXPECT_EQ(error.error, "too long");
}

TEST(ParsePromptEvent, SurvivesWhatItDoesNotKnow) {
  for (const char* data : {"{}", R"({"choices":[]})", R"({"choices":[7]})", R"({"choices":{}})",
                           R"({"choices":[{"delta":7,"text":8}],"usage":3,"progress":[]})"}) {
    ASSERT_OK_AND_ASSIGN(const PromptEvent event, ParsePromptEvent(data));
    EXPECT_EQ(event.text, "") << data;
  }
  for (const char* data : {"", "[]", "{", "7"}) {
    EXPECT_THAT(ParsePromptEvent(data), StatusIs(absl::StatusCode::kInternal, ::testing::_))
        << data;
  }
}

TEST(ErrorMessageOf, PrefersTheMessage) {
  EXPECT_EQ(ErrorMessageOf(R"({"error":{"message":"too long"}})"), "too long");
  EXPECT_EQ(ErrorMessageOf("<html>"), "<html>");
  EXPECT_EQ(ErrorMessageOf(R"({"error":"x"})"), R"({"error":"x"})");
}

}  // namespace
}  // namespace longhaul::cli
