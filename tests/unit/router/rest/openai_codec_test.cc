#include "router/rest/openai_codec.h"

#include <gtest/gtest.h>

#include <string>

#include "router/error_detail.h"
#include "router/rest/json_fields.h"
#include "tests/testing/status_matchers.h"

namespace longhaul::router::rest {
namespace {

using longhaul::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

absl::StatusOr<OpenAiRequest> Chat(const std::string& body) {
  return DecodeOpenAiRequest(OpenAiEndpoint::kChatCompletions, body);
}
absl::StatusOr<OpenAiRequest> Completion(const std::string& body) {
  return DecodeOpenAiRequest(OpenAiEndpoint::kCompletions, body);
}
// A chat with one message and `fields` besides.
std::string Body(const std::string& fields) {
  return R"({"model":"m","messages":[{"role":"user","content":"hi"}])" +
         (fields.empty() ? "" : "," + fields) + "}";
}

TEST(OpenAiCodec, ReadsEveryField) {
  ASSERT_OK_AND_ASSIGN(
      const OpenAiRequest decoded,
      Chat(Body(R"("stream":true,"stream_options":{"include_usage":true,"include_progress":true},
        "max_tokens":5,"max_completion_tokens":6,"temperature":0.5,"top_p":1,"top_k":20,"min_p":0.1,
        "repetition_penalty":1.05,"presence_penalty":-1,"frequency_penalty":2,"seed":-1,
        "stop":["a","\u00e4"],"n":3,"logit_bias":{"5":-100,"9":1.5},"logprobs":true,
        "top_logprobs":4,"min_tokens":2,"ignore_eos":true,"stop_token_ids":[7,8],"user":"u",
        "priority":-3,"timeout":1.5,"some_new_parameter":{"x":[1]},"tools":[{"type":"function",
        "function":{"name":"f","parameters":{"b":1,"a":[2.5]}}}])")));
  const GenerateRequest& request = decoded.requests[0];
  EXPECT_EQ(request.model, "m");
  EXPECT_TRUE(decoded.shape.stream && decoded.shape.include_usage &&
              decoded.shape.include_progress && decoded.shape.logprobs);
  EXPECT_EQ(request.max_tokens, 6);
  EXPECT_EQ(request.sampling.temperature, 0.5);
  EXPECT_EQ(request.sampling.top_p, 1.0);
  EXPECT_EQ(request.sampling.top_k, 20);
  EXPECT_EQ(request.sampling.min_p, 0.1);
  EXPECT_EQ(request.sampling.repetition_penalty, 1.05);
  EXPECT_EQ(request.sampling.presence_penalty, -1.0);
  EXPECT_EQ(request.sampling.frequency_penalty, 2.0);
  EXPECT_EQ(request.sampling.seed, ~uint64_t{0});
  EXPECT_THAT(request.sampling.logit_bias, ElementsAre(Pair(5, -100.0f), Pair(9, 1.5f)));
  EXPECT_EQ(request.sampling.top_logprobs, 4);
  EXPECT_THAT(request.stop, ElementsAre("a", "\xc3\xa4"));
  EXPECT_EQ(request.num_choices, 3);
  EXPECT_EQ(request.min_tokens, 2);
  EXPECT_TRUE(request.ignore_eos);
  EXPECT_THAT(request.stop_token_ids, ElementsAre(7, 8));
  EXPECT_EQ(request.priority, -3);
  EXPECT_EQ(request.timeout_seconds, 1.5);
  const auto& chat = std::get<ChatInput>(request.input);
  ASSERT_EQ(chat.messages.size(), 1u);
  EXPECT_EQ(chat.messages[0].role, "user");
  EXPECT_EQ(chat.messages[0].content, "hi");
  EXPECT_THAT(
      chat.tools_json,
      ElementsAre(R"({"type":"function","function":{"name":"f","parameters":{"b":1,"a":[2.5]}}})"));
}

TEST(OpenAiCodec, LeavesOpenWhatTheClientLeftOpenOrNull) {
  ASSERT_OK_AND_ASSIGN(const OpenAiRequest decoded,
                       Chat(Body(R"("temperature":null,"max_tokens":null,"stop":null,"n":null,
                                    "stream":null,"stream_options":null,"tools":null)")));
  EXPECT_FALSE(decoded.requests[0].sampling.temperature.has_value());
  EXPECT_FALSE(decoded.requests[0].sampling.seed.has_value());
  EXPECT_FALSE(decoded.requests[0].sampling.top_logprobs.has_value());
  EXPECT_FALSE(decoded.requests[0].max_tokens.has_value());
  EXPECT_EQ(decoded.requests[0].num_choices, 1);
  EXPECT_FALSE(decoded.requests[0].timeout_seconds.has_value());
  EXPECT_FALSE(decoded.requests[0].truncate_prompt_tokens.has_value());
  EXPECT_FALSE(decoded.shape.stream);
}

TEST(OpenAiCodec, ReadsConversationsWithPartsAndToolCalls) {
  ASSERT_OK_AND_ASSIGN(const OpenAiRequest decoded, Chat(R"({"model":"m","messages":[
      {"role":"system","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},
      {"role":"assistant","content":null,"tool_calls":[{"id":"c1","type":"function",
        "function":{"name":"f","arguments":"{\"x\": 1}"}}]},
      {"role":"tool","tool_call_id":"c1","content":"42"}]})"));
  const auto& messages = std::get<ChatInput>(decoded.requests[0].input).messages;
  ASSERT_EQ(messages.size(), 3u);
  EXPECT_EQ(messages[0].content, "a\nb");
  EXPECT_EQ(messages[1].content, "");
  ASSERT_EQ(messages[1].tool_calls.size(), 1u);
  EXPECT_EQ(messages[1].tool_calls[0].name, "f");
  EXPECT_EQ(messages[1].tool_calls[0].arguments_json, R"({"x": 1})");
  EXPECT_EQ(messages[2].tool_call_id, "c1");

  ASSERT_OK_AND_ASSIGN(const OpenAiRequest newer, Chat(R"({"model":"m","messages":[
      {"role":"developer","content":"a"},{"role":"user","content":"b"}]})"));
  EXPECT_EQ(std::get<ChatInput>(newer.requests[0].input).messages[0].role, "system");
}

TEST(OpenAiCodec, ReadsPromptsOfAllShapes) {
  const auto prompt = [](const std::string& json) {
    return Completion(R"({"model":"m","prompt":)" + json + "}");
  };
  EXPECT_EQ(std::get<TextInput>(prompt(R"("hi")")->requests[0].input).prompt, "hi");
  EXPECT_EQ(std::get<TextInput>(prompt(R"(["hi"])")->requests[0].input).prompt, "hi");
  EXPECT_THAT(std::get<TokenInput>(prompt("[1,2]")->requests[0].input).ids, ElementsAre(1, 2));
  EXPECT_THAT(std::get<TokenInput>(prompt("[[1,2]]")->requests[0].input).ids, ElementsAre(1, 2));
  EXPECT_FALSE(prompt("[]").ok());
  EXPECT_FALSE(prompt("[[]]").ok());
  EXPECT_FALSE(prompt("[1,\"a\"]").ok());
  EXPECT_FALSE(prompt("7").ok());

  const auto several = prompt(R"(["a",[3,4],"b"])");
  ASSERT_OK(several);
  ASSERT_EQ(several->requests.size(), 3u);
  EXPECT_EQ(std::get<TextInput>(several->requests[0].input).prompt, "a");
  EXPECT_THAT(std::get<TokenInput>(several->requests[1].input).ids, ElementsAre(3, 4));
  EXPECT_EQ(std::get<TextInput>(several->requests[2].input).prompt, "b");
  EXPECT_NE(several->requests[0].id, several->requests[2].id);
  EXPECT_THAT(prompt(R"(["a",7])"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("prompt[1] must be")));
  std::string many = "[\"a\"";
  for (int i = 1; i < 129; ++i) many += ",\"a\"";
  EXPECT_THAT(prompt(many + "]"), StatusIs(absl::StatusCode::kInvalidArgument,
                                           HasSubstr("has 129 prompts, limit 128")));
}

TEST(OpenAiCodec, EchoWithLogprobsAsksForThoseOfThePrompt) {
  const auto completion = [](const std::string& fields) {
    return Completion(R"({"model":"m","prompt":"p",)" + fields + "}");
  };
  const auto both = completion(R"("echo":true,"logprobs":3)");
  ASSERT_OK(both);
  EXPECT_TRUE(both->requests[0].echo);
  EXPECT_EQ(both->requests[0].sampling.prompt_logprobs, 3);
  EXPECT_FALSE(both->shape.prompt_logprobs);
  EXPECT_EQ(completion(R"("echo":true)")->requests[0].sampling.prompt_logprobs, std::nullopt);
  EXPECT_EQ(completion(R"("logprobs":3)")->requests[0].sampling.prompt_logprobs, std::nullopt);

  const auto own = completion(R"("prompt_logprobs":2)");
  ASSERT_OK(own);
  EXPECT_EQ(own->requests[0].sampling.prompt_logprobs, 2);
  EXPECT_TRUE(own->shape.prompt_logprobs);
  EXPECT_FALSE(own->shape.logprobs);
  EXPECT_THAT(completion(R"("prompt_logprobs":2,"stream":true)"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("stream must be false")));
  EXPECT_THAT(completion(R"("prompt_logprobs":2,"echo":true,"logprobs":3)"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("must be the same")));
}

struct Refusal {
  std::string fields;
  std::string field;    // that the error names
  std::string message;  // a part of it
};

TEST(OpenAiCodec, RefusesWrongTypesAndRangesByName) {
  const Refusal refusals[] = {
      {R"("temperature":"hot")", "temperature", "must be a number, got the string \"hot\""},
      {R"("top_k":1.5)", "top_k", "must be an integer, got 1.5"},
      {R"("top_k":-2)", "top_k", "is -2, limit -1 to"},
      {R"("n":17)", "n", "is 17, limit 1 to 16"},
      {R"("n":0)", "n", "limit 1 to 16"},
      {R"("max_tokens":-1)", "max_tokens", "is -1, limit 0"},
      {R"("max_tokens":99999999999999999999999)", "max_tokens", "64-bit"},
      {R"("max_tokens":18446744073709551615)", "max_tokens", "18446744073709551615"},
      {R"("max_tokens":1e300)", "max_tokens", "limit 0"},
      {R"("stream":1)", "stream", "must be true or false, got 1"},
      {R"("stream":true,"stream_options":[])", "stream_options", "must be an object"},
      {R"("stream":true,"stream_options":{"include_usage":"y"})", "stream_options.include_usage",
       "true or false"},
      {R"("stream_options":{})", "stream_options", "needs stream"},
      {R"("stop":3)", "stop", "a string or an array of strings"},
      {R"("stop":["a",3])", "stop[1]", "must be a string, got 3"},
      {R"("stop":["1","2","3","4","5","6","7","8","9","10","11","12","13","14","15","16","17"])",
       "stop", "17 items, limit 16"},
      {R"("logit_bias":{"5":101})", "logit_bias.5", "limit -100 to 100"},
      {R"("logit_bias":{"five":1})", "logit_bias", "\"five\""},
      {R"("logit_bias":{"-1":1})", "logit_bias", "\"-1\""},
      {R"("logit_bias":{" 1":1})", "logit_bias", "the key \" 1\", expected a token id"},
      {R"("logit_bias":{"+1":1})", "logit_bias", "\"+1\""},
      {R"("logit_bias":{"01":1})", "logit_bias", "\"01\""},
      {R"("logit_bias":{"1 ":1})", "logit_bias", "\"1 \""},
      {R"("logit_bias":{"":1})", "logit_bias", "\"\""},
      {R"("logit_bias":{"2147483648":1})", "logit_bias", "\"2147483648\""},
      {R"("top_logprobs":3)", "top_logprobs", "needs logprobs"},
      {R"("logprobs":true,"top_logprobs":21)", "top_logprobs", "limit 0 to 20"},
      {R"("stop_token_ids":[4294967296])", "stop_token_ids[0]", "4294967296"},
      {R"("timeout":"1s")", "timeout", "must be a number"},
      {R"("truncate_prompt_tokens":-2)", "truncate_prompt_tokens", "limit -1"},
      {R"("user":5)", "user", "must be a string"},
      {R"("tools":[{"type":"retrieval"}])", "tools[0].type", "retrieval"},
      {R"("tools":[{"type":"function"}])", "tools[0].function", "required"},
      {R"("tool_choice":"required")", "tool_choice", "auto"},
      {R"("response_format":{"type":"json_object"})", "response_format.type", "json_object"},
      {R"("user":"\ud800")", "user", "surrogate"},
      {R"("user":"\udc00x")", "user", "surrogate"},
      {"\"user\":\"\xff\"", "user", "invalid UTF-8"},
      {R"("stop":["a","\ude00\ud83d"])", "stop[1]", "surrogate"},
      {R"("tools":[{"type":"function","function":{"name":"f","description":"\udc00"}}])",
       "tools[0].function.description", "surrogate"},
  };
  for (const Refusal& refusal : refusals) {
    SCOPED_TRACE(refusal.fields);
    const absl::Status status = Chat(Body(refusal.fields)).status();
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(refusal.message)));
    EXPECT_EQ(DetailOf(status).field, refusal.field);
  }
}

TEST(OpenAiCodec, RefusesBadMessagesByName) {
  const Refusal refusals[] = {
      {R"([])", "messages", "empty"},
      {R"("hi")", "messages", "must be an array"},
      {R"([3])", "messages[0]", "must be an object, got 3"},
      {R"([{"content":"x"}])", "messages[0].role", "required"},
      {R"([{"role":"user"}])", "messages[0].content", "required"},
      {R"([{"role":"user","content":7}])", "messages[0].content", "array of parts, got 7"},
      {R"([{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}])",
       "messages[0].content[0].type", "image_url"},
      {R"([{"role":"user","content":[{"type":"text"}]}])", "messages[0].content[0].text",
       "required"},
      {R"([{"role":"a","content":"x"},{"role":"user","content":"\ude00"}])", "messages[1].content",
       "surrogate"},
  };
  for (const Refusal& refusal : refusals) {
    SCOPED_TRACE(refusal.fields);
    const absl::Status status = Chat(R"({"model":"m","messages":)" + refusal.fields + "}").status();
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(refusal.message)));
    EXPECT_EQ(DetailOf(status).field, refusal.field);
  }
  EXPECT_EQ(DetailOf(Chat(R"({"model":"m"})").status()).field, "messages");
  EXPECT_EQ(DetailOf(Chat(R"({"messages":[]})").status()).field, "model");
}

TEST(OpenAiCodec, RefusesWhatIsNoJsonObject) {
  for (const char* body : {"", "{", "[]", "nonsense", "{\"a\":1}}", "{\"a\":1,}", "\"x\"", "null",
                           "{\"model\":\"m\",\"messages\":[}"}) {
    EXPECT_THAT(Chat(body), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("body")))
        << body;
  }
}

TEST(OpenAiCodec, OfANameThatIsThereTwiceTheLastCounts) {
  ASSERT_OK_AND_ASSIGN(
      const OpenAiRequest last,
      Chat(Body(R"("top_k":"no","top_k":5,"top_p":0.5,"top_p":null,"logit_bias":{"7":1},)"
                R"("logit_bias":{"8":1,"9":2,"8":3})")));
  EXPECT_EQ(last.requests[0].sampling.top_k, 5);
  EXPECT_EQ(last.requests[0].sampling.top_p, std::nullopt);
  EXPECT_THAT(last.requests[0].sampling.logit_bias,
              ElementsAre(std::pair<TokenId, float>(8, 3), std::pair<TokenId, float>(9, 2)));
  EXPECT_EQ(DetailOf(Chat(Body(R"("top_k":5,"top_k":"no")")).status()).field, "top_k");
}

TEST(OpenAiCodec, RefusesDeepNesting) {
  const auto nested = [](size_t levels) {
    return Body(R"("x":)" + std::string(levels, '[') + std::string(levels, ']'));
  };
  EXPECT_OK(Chat(nested(JsonDocument::kMaxDepth - 2)));
  EXPECT_THAT(Chat(nested(JsonDocument::kMaxDepth + 1)),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("nested deeper than the limit of 64 levels")));
  // Without an end, and where another fault follows.
  for (const char* level : {"[", "{\"a\":"}) {
    std::string deep = R"({"x":)";
    for (int i = 0; i < 10000; i++) deep += level;
    for (const char* end : {"", "\xff", "\"\\ud800\""}) {
      EXPECT_THAT(Chat(deep + end),
                  StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("limit of 64 levels")));
    }
  }
  EXPECT_THAT(Chat(nested(1 << 20)),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("limit of 64 levels")));
}

TEST(OpenAiCodec, ReadsTokenizeAndDetokenize) {
  ASSERT_OK_AND_ASSIGN(const TokenizeRequest tokenize,
                       DecodeTokenizeRequest(R"({"prompt":"x","parse_special":false})"));
  EXPECT_FALSE(tokenize.model.has_value());
  EXPECT_EQ(std::get<TextInput>(tokenize.input).prompt, "x");
  EXPECT_FALSE(tokenize.parse_special);
  ASSERT_OK_AND_ASSIGN(const DetokenizeRequest detokenize,
                       DecodeDetokenizeRequest(R"({"model":"m","tokens":[1,2]})"));
  EXPECT_EQ(detokenize.model, "m");
  EXPECT_THAT(detokenize.tokens, ElementsAre(1, 2));
  EXPECT_EQ(DetailOf(DecodeDetokenizeRequest(R"({"tokens":[-1]})").status()).field, "tokens[0]");
  EXPECT_EQ(DetailOf(DecodeTokenizeRequest("{}").status()).field, "prompt");
  ASSERT_OK_AND_ASSIGN(const TokenizeRequest bare, DecodeTokenizeRequest(R"({"messages":
      [{"role":"user","content":"x"}],"add_generation_prompt":false})"));
  EXPECT_FALSE(std::get<ChatInput>(bare.input).add_generation_prompt);
  ASSERT_OK_AND_ASSIGN(const TokenizeRequest chat,
                       DecodeTokenizeRequest(R"({"messages":[{"role":"user","content":"hi"}]})"));
  EXPECT_EQ(std::get<ChatInput>(chat.input).messages.at(0).content, "hi");
}

}  // namespace
}  // namespace longhaul::router::rest
