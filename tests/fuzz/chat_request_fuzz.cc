// A request body of foreign bytes: refused with an error that a client can read, or what comes out
// is text that can be tokenized and numbers that are in range; another JSON parser agrees.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "common/logging.h"
#include "common/text/chat_template.h"
#include "common/text/stop_matcher.h"
#include "common/text/tokenizer.h"
#include "common/text/utf8.h"
#include "router/resolve_sampling.h"
#include "router/rest/openai_codec.h"
#include "router/rest/openai_error.h"
#include "tests/fuzz/embedded.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/fuzz/tokenizer_json.h"
#include "tests/testing/temp_dir.h"

namespace longhaul::router::rest {
namespace {

using Json = nlohmann::json;

constexpr RequestLimits kLimits{.vocab_size = 300, .max_model_len = 4096};

bool IsUtf8(std::string_view text) { return text::FindInvalidUtf8(text) == std::string_view::npos; }

struct Model {
  std::unique_ptr<text::Tokenizer> tokenizer;
  text::ChatTemplate chat_template;
};

const Model& TheModel() {
  static const Model model = [] {
    const testing::TempDir folder;
    folder.Write("tokenizer.json", fuzz::SmallTokenizerJson());
    folder.Write("tokenizer_config.json", fuzz::kTokenizerConfig);
    auto tokenizer = text::Tokenizer::Load(folder.path());
    CHECK(tokenizer.ok()) << tokenizer.status();
    auto chat_template = text::ChatTemplate::Load(folder.path());
    CHECK(chat_template.ok()) << chat_template.status();
    return Model{*std::move(tokenizer), *std::move(chat_template)};
  }();
  return model;
}

// A refusal is the client's fault, and its body is OpenAI's error object.
void CheckRefusal(const absl::Status& status) {
  CHECK(absl::IsInvalidArgument(status)) << status;
  CHECK(!status.message().empty());
  const Json body = Json::parse(ErrorBody(status), /*cb=*/nullptr, /*allow_exceptions=*/false);
  CHECK(body.is_object() && body.contains("error")) << status;
  CHECK(body["error"]["message"].is_string() && body["error"]["type"].is_string()) << status;
  CHECK(ErrorReply(status).status == 400) << status;
}

// The body as another parser reads it, for which too the last of two like names counts. What we
// accept must be JSON.
Json ReadAgain(const std::string& body) {
  Json json = Json::parse(body, /*cb=*/nullptr, /*allow_exceptions=*/false);
  CHECK(json.is_object()) << "what was accepted is no JSON object: " << body;
  return json;
}

// The ids of a chat, whose content cannot write special tokens.
void CheckChat(const ChatInput& chat) {
  const auto rendered = TheModel().chat_template.RenderMarked(chat.messages, chat.tools_json, true);
  if (!rendered.ok()) {
    CHECK(absl::IsInvalidArgument(rendered.status())) << rendered.status();
    CHECK(IsUtf8({rendered.status().message().data(), rendered.status().message().size()}));
    return;
  }
  CHECK(IsUtf8(rendered->text)) << rendered->text;
  size_t end = 0;
  for (const text::TextRange& range : rendered->markup) {
    CHECK(range.begin >= end && range.begin < range.end && range.end <= rendered->text.size());
    end = range.end;
  }
  for (const text::ChatMessage& message : chat.messages) {
    CHECK(rendered->text.find(message.content) != std::string::npos) << message.content;
  }
  const text::Tokenizer& tokenizer = *TheModel().tokenizer;
  const auto ids =
      TheModel().chat_template.EncodeChat(tokenizer, chat.messages, chat.tools_json, true);
  CHECK(ids.ok()) << ids.status();
  // As many turns as the template opened, however many the messages wrote.
  const auto count = [](std::string_view text, std::string_view what) {
    int64_t found = 0;
    for (size_t at = 0; (at = text.find(what, at)) != std::string_view::npos; ++at) found++;
    return found;
  };
  int64_t opened = 0;
  for (const text::TextRange& range : rendered->markup) {
    opened += count(std::string_view(rendered->text).substr(range.begin, range.end - range.begin),
                    "<|im_start|>");
  }
  const TokenId im_start = tokenizer.TokenIdOf("<|im_start|>").value();
  CHECK(std::ranges::count(*ids, im_start) == opened) << rendered->text;
}

void CheckSampling(const GenerateRequest& request) {
  const auto sampling =
      ResolveSampling(request.sampling, GenerationDefaults{}, kLimits, /*drawn_seed=*/1);
  if (!sampling.ok()) return CheckRefusal(sampling.status());
  const SamplingParams& p = *sampling;
  CHECK(p.temperature >= 0 && p.temperature <= 2) << p.temperature;
  CHECK(p.top_p > 0 && p.top_p <= 1) << p.top_p;
  CHECK(p.top_k >= 0 && p.top_k <= kLimits.vocab_size) << p.top_k;
  CHECK(p.min_p >= 0 && p.min_p <= 1) << p.min_p;
  CHECK(p.repetition_penalty > 0 && p.repetition_penalty <= 10) << p.repetition_penalty;
  CHECK(std::abs(p.presence_penalty) <= 2 && std::abs(p.frequency_penalty) <= 2);
  CHECK(std::ranges::is_sorted(p.logit_bias));
  for (const auto& [id, bias] : p.logit_bias) {
    CHECK(id >= 0 && id < kLimits.vocab_size && std::abs(bias) <= 100) << id << " " << bias;
  }
  CHECK(p.top_logprobs.value_or(0) >= 0 && p.top_logprobs.value_or(0) <= 20);
}

void CheckStopping(const GenerateRequest& request) {
  for (const std::string& stop : request.stop) CHECK(IsUtf8(stop)) << stop;
  const auto matcher = text::StopMatcher::Create(request.stop);
  CHECK(matcher.ok() || absl::IsInvalidArgument(matcher.status())) << matcher.status();
  const auto stop = ResolveStopping(request, kLimits, /*prompt_tokens=*/100);
  if (!stop.ok()) return CheckRefusal(stop.status());
  CHECK(stop->max_tokens >= 0 && stop->max_tokens <= kLimits.max_model_len - 100);
  CHECK(stop->min_tokens >= 0 && stop->min_tokens <= stop->max_tokens);
  for (const TokenId id : stop->stop_token_ids) CHECK(id >= 0 && id < kLimits.vocab_size) << id;
}

void CheckInput(OpenAiEndpoint endpoint, const PromptInput& input) {
  if (const auto* chat = std::get_if<ChatInput>(&input)) {
    CHECK(endpoint == OpenAiEndpoint::kChatCompletions && !chat->messages.empty());
    CheckChat(*chat);
  } else if (const auto* text = std::get_if<TextInput>(&input)) {
    CHECK(endpoint == OpenAiEndpoint::kCompletions && IsUtf8(text->prompt));
    const auto ids = TheModel().tokenizer->Encode(text->prompt, text::SpecialTokens::kParse);
    CHECK(ids.ok()) << ids.status();
  } else {
    CHECK(endpoint == OpenAiEndpoint::kCompletions);
    for (const TokenId id : std::get<TokenInput>(input).ids) CHECK(id >= 0) << id;
  }
}

void CheckGeneration(OpenAiEndpoint endpoint, const std::string& body) {
  const auto decoded = DecodeOpenAiRequest(endpoint, body);
  if (!decoded.ok()) return CheckRefusal(decoded.status());
  CHECK(!decoded->requests.empty());
  const GenerateRequest& request = decoded->requests.front();
  const Json json = ReadAgain(body);
  CHECK(json.at("model") == request.model) << request.model;
  const Json stream = json.value("stream", Json(false));
  CHECK(stream.is_null() || stream == Json(decoded->shape.stream));
  CHECK(IsUtf8(request.model));
  const absl::Status shape = CheckRequestShape(request);
  if (!shape.ok()) CheckRefusal(shape);
  CheckSampling(request);
  CheckStopping(request);

  const auto* chat = std::get_if<ChatInput>(&request.input);
  if (chat != nullptr) CHECK(json.at("messages").size() == chat->messages.size());
  std::set<RequestId> ids;
  for (const GenerateRequest& one : decoded->requests) {
    CheckInput(endpoint, one.input);
    CHECK(ids.insert(one.id).second) << "two requests have one id";
    CHECK(one.model == request.model && one.num_choices == request.num_choices);
  }
}

}  // namespace
}  // namespace longhaul::router::rest

// First byte: which endpoint (a chat, a completion, tokenize, detokenize); the rest is the body.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace longhaul::router::rest;
  longhaul::fuzz::FuzzInput input(data, size);
  const size_t endpoint = input.Below(4);
  const std::string body(input.Rest());
  if (endpoint < 2) {
    CheckGeneration(endpoint == 0 ? OpenAiEndpoint::kChatCompletions : OpenAiEndpoint::kCompletions,
                    body);
  } else if (endpoint == 2) {
    const auto request = DecodeTokenizeRequest(body);
    if (!request.ok()) {
      CheckRefusal(request.status());
    } else {
      ReadAgain(body);
    }
  } else {
    const auto request = DecodeDetokenizeRequest(body);
    if (!request.ok()) {
      CheckRefusal(request.status());
    } else {
      ReadAgain(body);
    }
  }
  return 0;
}
