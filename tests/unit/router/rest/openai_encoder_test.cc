#include "router/rest/openai_encoder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace longhaul::router::rest {
namespace {

using ::testing::ElementsAre;

OpenAiEncoder Encoder(ResponseShape shape, size_t num_choices = 1, size_t num_prompts = 1) {
  shape.model = "m";
  return OpenAiEncoder(std::move(shape), RequestId{.high = 1, .low = 2}, num_prompts, num_choices,
                       absl::FromUnixSeconds(5),
                       [](TokenId id) { return std::string(1, static_cast<char>(id)); });
}

// What every chunk of a chat begins with.
const std::string kHead =
    R"({"id":"chatcmpl-00000000000000010000000000000002","object":"chat.completion.chunk",)"
    R"("created":5,"model":"m",)";

TEST(OpenAiEncoder, ChatStreamBeginsWithTheRoleAndEndsWithTheReason) {
  OpenAiEncoder encoder = Encoder({.stream = true});
  EXPECT_THAT(
      encoder.DeltaChunks({.choice = 0, .text = "a\n\xc3\xa4", .tokens = {}}),
      ElementsAre(
          kHead +
              R"("choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]})",
          kHead +
              R"("choices":[{"index":0,"delta":{"content":"a\nä"},"logprobs":null,"finish_reason":null}]})"));
  EXPECT_THAT(
      encoder.FinishChunks({.reason = FinishReason::kLength}, /*all_done=*/true),
      ElementsAre(
          kHead +
          R"("choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"length"}]})"));
}

TEST(OpenAiEncoder, UsageComesLastAndIsNullBefore) {
  OpenAiEncoder encoder = Encoder({.stream = true, .include_usage = true}, 2);
  const Usage usage = {.prompt_tokens = 9, .cached_tokens = 3, .completion_tokens = 4};
  const auto first = encoder.FinishChunks({.choice = 0, .usage = usage}, false);
  const auto last = encoder.FinishChunks({.choice = 1, .usage = usage}, true);
  ASSERT_EQ(first.size(), 2u);  // role, reason
  EXPECT_THAT(first[1], ::testing::EndsWith(R"("finish_reason":"stop"}],"usage":null})"));
  ASSERT_EQ(last.size(), 3u);
  EXPECT_EQ(last[2], kHead + R"("choices":[],"usage":{"prompt_tokens":9,"completion_tokens":8,)"
                             R"("total_tokens":17,"prompt_tokens_details":{"cached_tokens":3}}})");
}

TEST(OpenAiEncoder, ProgressIsAChunkWithoutChoices) {
  const OpenAiEncoder encoder = Encoder({.stream = true, .include_progress = true});
  EXPECT_EQ(
      encoder.ProgressChunk(
          {.prompt_tokens = 10, .cached_tokens = 2, .processed_tokens = 5, .eta_seconds = 1.5}),
      kHead + R"("choices":[],"progress":{"prompt_tokens":10,"cached_tokens":2,)"
              R"("processed_tokens":5,"eta_seconds":1.5}})");
  EXPECT_THAT(encoder.ProgressChunk({}), ::testing::HasSubstr(R"("eta_seconds":null)"));
}

TEST(OpenAiEncoder, TokensWithoutTextMakeNoChunkUnlessTheirLogprobsAreWanted) {
  const DeltaEvent event = {.text = "", .tokens = {{.token = 'x', .logprob = -1.0f}}};
  OpenAiEncoder plain = Encoder({.stream = true});
  EXPECT_EQ(plain.DeltaChunks(event).size(), 1u);  // the role
  OpenAiEncoder with_logprobs = Encoder({.stream = true, .logprobs = true});
  EXPECT_EQ(with_logprobs.DeltaChunks(event).size(), 2u);
}

TEST(OpenAiEncoder, WholeChatHasMessageLogprobsAndUsage) {
  OpenAiEncoder encoder = Encoder({.logprobs = true});
  encoder.Add(DeltaEvent{
      .text = "x",
      .tokens = {
          {.token = 'x',
           .logprob = -0.5f,
           .top_logprobs = {{'x', -0.5f}, {'y', -std::numeric_limits<float>::infinity()}}}}});
  encoder.Add(DeltaEvent{.text = "z", .tokens = {}});
  encoder.Add(FinishedEvent{.usage = {.prompt_tokens = 1, .completion_tokens = 2}});
  EXPECT_EQ(
      encoder.WholeBody(),
      R"({"id":"chatcmpl-00000000000000010000000000000002","object":"chat.completion","created":5,)"
      R"("model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"xz"},)"
      R"("logprobs":{"content":[{"token":"x","logprob":-0.5,"bytes":[120],"top_logprobs":[)"
      R"({"token":"x","logprob":-0.5,"bytes":[120]},{"token":"y","logprob":-9999.0,"bytes":[121]}]}]},)"
      R"("finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2,)"
      R"("total_tokens":3,"prompt_tokens_details":{"cached_tokens":0}}})");
}

TEST(OpenAiEncoder, CompletionsHaveTextAndTheirOwnLogprobs) {
  OpenAiEncoder encoder =
      Encoder({.endpoint = OpenAiEndpoint::kCompletions, .stream = true, .logprobs = true});
  const DeltaEvent event = {.text = "x", .tokens = {{.token = 'x', .logprob = -1.0f}}};
  encoder.DeltaChunks(event);
  EXPECT_THAT(
      encoder.DeltaChunks(event),
      ElementsAre(
          R"({"id":"cmpl-00000000000000010000000000000002","object":"text_completion","created":5,)"
          R"("model":"m","choices":[{"index":0,"text":"x","logprobs":{"tokens":["x"],)"
          R"("token_logprobs":[-1.0],"top_logprobs":[{"x":-1.0}],"text_offset":[1]},)"
          R"("finish_reason":null}]})"));
}

TEST(OpenAiEncoder, AnEchoedPromptStandsBeforeTheTextWithItsLogprobs) {
  const PromptEvent prompt = {.text = "ab",
                              .tokens = {{.token = 'a'}, {.token = 'b', .logprob = -2.0f}}};
  const DeltaEvent delta = {.text = "c", .tokens = {{.token = 'c', .logprob = -1.0f}}};
  ResponseShape shape = {.endpoint = OpenAiEndpoint::kCompletions, .echo = true, .logprobs = true};
  OpenAiEncoder whole = Encoder(shape);
  whole.Add(prompt);
  whole.Add(delta);
  EXPECT_THAT(
      whole.WholeBody(),
      ::testing::HasSubstr(
          R"({"index":0,"text":"abc","logprobs":{"tokens":["a","b","c"],)"
          R"("token_logprobs":[null,-2.0,-1.0],"top_logprobs":[null,{"b":-2.0},{"c":-1.0}],)"
          R"("text_offset":[0,1,2]})"));
  shape.stream = true;
  OpenAiEncoder stream = Encoder(shape);
  EXPECT_THAT(stream.PromptChunks(prompt),
              ElementsAre(::testing::HasSubstr(R"("text":"ab","logprobs":{"tokens":["a","b"],)")));
  EXPECT_THAT(stream.DeltaChunks(delta), ElementsAre(::testing::HasSubstr(R"("text_offset":[2])")));
}

TEST(OpenAiEncoder, PromptLogprobsAreAListOfTheirOwn) {
  const PromptEvent prompt = {
      .tokens = {{.token = 'a'},
                 {.token = 'b', .logprob = -2.0f, .top_logprobs = {{'c', -0.5f}, {'b', -2.0f}}},
                 {.token = 0xE4, .logprob = -3.0f}}};
  const std::string list =
      R"("prompt_logprobs":[null,{"98":{"logprob":-2.0,"rank":2,"decoded_token":"b"},)"
      R"("99":{"logprob":-0.5,"rank":1,"decoded_token":"c"}},)"
      R"({"228":{"logprob":-3.0,"rank":null,"decoded_token":"�"}}])";
  for (const OpenAiEndpoint endpoint :
       {OpenAiEndpoint::kCompletions, OpenAiEndpoint::kChatCompletions}) {
    OpenAiEncoder encoder = Encoder({.endpoint = endpoint, .prompt_logprobs = true});
    encoder.Add(prompt);
    encoder.Add(DeltaEvent{.text = "x", .tokens = {{.token = 'x'}}});
    const std::string body = encoder.WholeBody();
    EXPECT_THAT(body, ::testing::HasSubstr(list));
    EXPECT_THAT(body, ::testing::HasSubstr(R"("logprobs":null)"));
  }
}

TEST(OpenAiEncoder, TokensThatArePartOfACharacterKeepTheirBytes) {
  const DeltaEvent delta = {
      .text = "", .tokens = {{.token = 0xE4, .logprob = -1.0f, .top_logprobs = {{0xB8, -1.5f}}}}};
  OpenAiEncoder chat = Encoder({.logprobs = true});
  chat.Add(delta);
  EXPECT_THAT(chat.WholeBody(),
              ::testing::HasSubstr(R"({"token":"�","logprob":-1.0,"bytes":[228],)"));
  OpenAiEncoder completion = Encoder({.endpoint = OpenAiEndpoint::kCompletions, .logprobs = true});
  completion.Add(delta);
  EXPECT_THAT(completion.WholeBody(),
              ::testing::HasSubstr(R"("tokens":["bytes:\\xe4"],"token_logprobs":[-1.0],)"
                                   R"("top_logprobs":[{"bytes:\\xb8":-1.5,"bytes:\\xe4":-1.0}])"));
}

TEST(OpenAiEncoder, OffsetsCountCharactersOfTheText) {
  // A character of two tokens, a stray byte, an unfinished character before an "a".
  OpenAiEncoder encoder = Encoder({.endpoint = OpenAiEndpoint::kCompletions, .logprobs = true});
  DeltaEvent delta = {.text =
                          "\xc3\xa4\xef\xbf\xbd\xef\xbf\xbd"
                          "a"};
  for (const TokenId byte : {0xC3, 0xA4, 0xBD, 0xE4, int{'a'}, int{'b'}}) {
    delta.tokens.push_back({.token = byte, .logprob = -1.0f});
  }
  encoder.Add(delta);
  EXPECT_THAT(encoder.WholeBody(), ::testing::HasSubstr(R"("text_offset":[0,0,1,2,2,4])"));
}

TEST(OpenAiEncoder, SeveralPromptsAddUp) {
  OpenAiEncoder encoder = Encoder({.endpoint = OpenAiEndpoint::kCompletions}, 2, 3);
  for (int32_t choice = 0; choice < 6; ++choice) {
    encoder.Add(
        DeltaEvent{.choice = choice, .text = std::string(1, static_cast<char>('a' + choice))});
    const int32_t prompt = choice / 2;
    encoder.Add(FinishedEvent{
        .choice = choice,
        .usage = {.prompt_tokens = 10 + prompt, .cached_tokens = prompt, .completion_tokens = 2}});
  }
  const std::string body = encoder.WholeBody();
  EXPECT_THAT(body, ::testing::HasSubstr(R"({"index":5,"text":"f")"));
  EXPECT_THAT(body, ::testing::HasSubstr(
                        R"("usage":{"prompt_tokens":33,"completion_tokens":12,"total_tokens":45,)"
                        R"("prompt_tokens_details":{"cached_tokens":3}})"));
}

TEST(OpenAiEncoder, ModelsAndTokens) {
  const ModelInfo model = {.id = "m", .max_model_len = 7, .created_unix_seconds = 3};
  const std::string json =
      R"({"id":"m","object":"model","created":3,"owned_by":"longhaul","max_model_len":7})";
  EXPECT_EQ(ModelBody(model), json);
  EXPECT_EQ(ModelListBody({model}), R"({"object":"list","data":[)" + json + "]}");
  EXPECT_EQ(TokenizeBody({1, 2}, 7), R"({"count":2,"max_model_len":7,"tokens":[1,2]})");
  EXPECT_EQ(TokenizeBody({}, 7), R"({"count":0,"max_model_len":7,"tokens":[]})");
  EXPECT_EQ(DetokenizeBody("a"), R"({"prompt":"a"})");
}

}  // namespace
}  // namespace longhaul::router::rest
