// Answers with any text and any logprobs: every chunk is one line of JSON, and the chunks of a
// stream add up to the text of the whole answer.
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "common/logging.h"
#include "common/text/utf8.h"
#include "router/rest/openai_encoder.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_target.h"

namespace longhaul::router::rest {
namespace {

using Json = nlohmann::json;

constexpr size_t kChoices = 3;

// Adds the text that a chunk or a whole answer has for its choice.
void AddText(const Json& choice, OpenAiEndpoint endpoint, std::vector<std::string>& texts) {
  const auto index = choice.at("index").get<size_t>();
  CHECK(index < texts.size()) << index;
  const Json* text = nullptr;
  if (endpoint == OpenAiEndpoint::kCompletions) {
    if (choice.contains("text")) text = &choice["text"];
  } else {
    const Json& message = choice.contains("delta") ? choice["delta"] : choice["message"];
    if (message.contains("content")) text = &message["content"];
  }
  if (text != nullptr && text->is_string()) texts[index] += text->get<std::string>();
}

Json Parsed(const std::string& data) {
  CHECK(data.find_first_of("\r\n") == data.npos) << data;
  Json json = Json::parse(data, /*cb=*/nullptr, /*allow_exceptions=*/false);
  CHECK(json.is_object()) << data;
  return json;
}

void Check(fuzz::FuzzInput& input) {
  const uint8_t flags = input.Byte();
  ResponseShape shape;
  shape.endpoint =
      (flags & 1) != 0 ? OpenAiEndpoint::kCompletions : OpenAiEndpoint::kChatCompletions;
  shape.model = "demo\"\n";
  shape.logprobs = (flags & 2) != 0;
  shape.include_usage = (flags & 4) != 0;
  shape.echo = (flags & 8) != 0;
  const auto token_text = [](TokenId id) { return std::string(1, static_cast<char>(id)); };
  const auto encoder = [&](bool stream) {
    shape.stream = stream;
    return OpenAiEncoder(shape, RequestId{}, /*num_prompts=*/1, kChoices, absl::FromUnixSeconds(17),
                         token_text);
  };
  OpenAiEncoder streaming = encoder(/*stream=*/true);
  OpenAiEncoder whole = encoder(/*stream=*/false);
  std::vector<std::string> expected(kChoices), streamed(kChoices), answered(kChoices);
  const auto take = [&](const std::vector<std::string>& chunks) {
    for (const std::string& chunk : chunks) {
      const Json json = Parsed(chunk);
      for (const Json& choice : json.at("choices")) {
        AddText(choice, shape.endpoint, streamed);
      }
    }
  };
  for (int32_t choice = 0; shape.echo && choice < static_cast<int32_t>(kChoices); ++choice) {
    PromptEvent prompt{.choice = choice};
    text::AppendWellFormed(input.Until('\n'), text::Continuation::kNone, prompt.text);
    if (shape.logprobs) {
      prompt.tokens = {{.token = input.Byte()},
                       {.token = input.Byte(), .logprob = input.Value<float>()}};
    }
    expected[static_cast<size_t>(choice)] += prompt.text;
    take(streaming.PromptChunks(prompt));
    whole.Add(prompt);
  }
  while (!input.empty()) {
    DeltaEvent delta{
        .choice = static_cast<int32_t>(input.Below(kChoices)), .text = {}, .tokens = {}};
    GeneratedToken token{.token = input.Byte()};
    if (shape.logprobs) {
      token.logprob = input.Value<float>();
      for (size_t i = input.Below(3); i > 0; --i) {
        token.top_logprobs.push_back({input.Byte(), input.Value<float>()});
      }
    }
    delta.tokens.push_back(token);
    text::AppendWellFormed(input.Until('\n'), text::Continuation::kNone, delta.text);
    expected[static_cast<size_t>(delta.choice)] += delta.text;
    take(streaming.DeltaChunks(delta));
    whole.Add(delta);
  }
  for (int32_t choice = 0; choice < static_cast<int32_t>(kChoices); ++choice) {
    const FinishedEvent finished{.choice = choice, .reason = FinishReason::kLength};
    take(streaming.FinishChunks(finished, choice + 1 == static_cast<int32_t>(kChoices)));
    whole.Add(finished);
  }
  const Json json = Parsed(whole.WholeBody());
  for (const Json& choice : json.at("choices")) {
    AddText(choice, shape.endpoint, answered);
  }
  CHECK(streamed == expected);
  CHECK(answered == expected);
}

}  // namespace
}  // namespace longhaul::router::rest

// First byte: bits for completions, logprobs, usage, echo. Then, with echo, for each choice a line
// of text and with logprobs two tokens. Then, for each piece: choice, token, with logprobs four
// bytes of float and up to two others, and a line of text.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  longhaul::fuzz::FuzzInput input(data, size);
  longhaul::router::rest::Check(input);
  return 0;
}
