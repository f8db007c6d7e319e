#include "router/rest/openai_codec.h"

#include <algorithm>
#include <limits>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "router/error_detail.h"
#include "router/resolve_sampling.h"
#include "router/rest/json_fields.h"

namespace longhaul::router::rest {
namespace {

using simdjson::dom::array;
using simdjson::dom::element;

constexpr int64_t kMaxInt64 = std::numeric_limits<int64_t>::max();
constexpr int64_t kMaxTokenId = std::numeric_limits<TokenId>::max();
constexpr size_t kMaxMessages = 65536;
constexpr size_t kMaxContentParts = 65536;
constexpr size_t kMaxTools = 1024;
constexpr size_t kMaxToolCalls = 1024;
constexpr size_t kMaxStops = 16;
constexpr size_t kMaxStopTokenIds = 64;
constexpr size_t kMaxLogitBias = 1024;
constexpr size_t kMaxPromptIds = size_t{1} << 23;
constexpr size_t kMaxPrompts = 128;

std::string Indexed(const std::string& path, size_t index) {
  return absl::StrCat(path, "[", index, "]");
}

absl::Status Unsupported(const std::string& path, std::string_view what) {
  return InvalidField(path, absl::StrCat(path, " ", std::string(what)));
}

absl::Status Missing(const std::string& path) {
  return InvalidField(path, absl::StrCat(path, " is required"));
}

bool IsText(element value, std::string_view text) {
  std::string_view actual;
  return value.get_string().get(actual) == simdjson::SUCCESS && actual == text;
}

absl::StatusOr<std::string> RequiredString(const JsonFields& fields, std::string_view name) {
  ASSIGN_OR_RETURN(std::optional<std::string> value, fields.String(name));
  if (!value.has_value()) return Missing(fields.PathOf(name));
  return *std::move(value);
}

absl::StatusOr<std::vector<TokenId>> TokenIdsAt(array items, const std::string& path) {
  std::vector<TokenId> ids;
  ids.reserve(items.size());
  for (element item : items) {
    ASSIGN_OR_RETURN(const int64_t id, IntegerAt(item, Indexed(path, ids.size()), 0, kMaxTokenId));
    ids.push_back(static_cast<TokenId>(id));
  }
  return ids;
}

// A string, null, or an array of parts, which are joined by line ends as vLLM does.
absl::StatusOr<std::string> DecodeContent(const JsonFields& message) {
  const std::optional<element> content = message.Find("content");
  const std::string path = message.PathOf("content");
  if (!content.has_value()) return std::string();
  if (content->is_string()) return StringAt(*content, path);
  if (!content->is_array()) return WrongType(*content, path, "a string or an array of parts");
  ASSIGN_OR_RETURN(const std::optional<array> parts, message.Array("content", kMaxContentParts));
  std::string text;
  size_t index = 0;
  for (element item : *parts) {
    const std::string part_path = Indexed(path, index);
    ASSIGN_OR_RETURN(const JsonFields part, ObjectAt(item, part_path));
    ASSIGN_OR_RETURN(const std::string type, RequiredString(part, "type"));
    if (type != "text") {
      return Unsupported(part.PathOf("type"),
                         absl::StrCat("is \"", type, "\", this model reads only \"text\""));
    }
    ASSIGN_OR_RETURN(const std::string part_text, RequiredString(part, "text"));
    if (index > 0) text += '\n';
    text += part_text;
    index++;
  }
  return text;
}

absl::StatusOr<std::vector<text::ToolCall>> DecodeToolCalls(const JsonFields& message) {
  std::vector<text::ToolCall> calls;
  ASSIGN_OR_RETURN(const std::optional<array> items, message.Array("tool_calls", kMaxToolCalls));
  if (!items.has_value()) return calls;
  const std::string path = message.PathOf("tool_calls");
  for (element item : *items) {
    const std::string call_path = Indexed(path, calls.size());
    ASSIGN_OR_RETURN(const JsonFields call, ObjectAt(item, call_path));
    ASSIGN_OR_RETURN(const std::optional<std::string> id, call.String("id"));
    ASSIGN_OR_RETURN(const std::optional<JsonFields> function, call.Object("function"));
    if (!function.has_value()) return Missing(call.PathOf("function"));
    ASSIGN_OR_RETURN(std::string name, RequiredString(*function, "name"));
    ASSIGN_OR_RETURN(std::optional<std::string> arguments, function->String("arguments"));
    calls.push_back({.id = id.value_or(""),
                     .name = std::move(name),
                     .arguments_json = std::move(arguments).value_or("")});
  }
  return calls;
}

absl::StatusOr<std::vector<text::ChatMessage>> DecodeMessages(const JsonFields& body) {
  ASSIGN_OR_RETURN(const std::optional<array> items, body.Array("messages", kMaxMessages));
  if (!items.has_value()) return Missing("messages");
  std::vector<text::ChatMessage> messages;
  for (element item : *items) {
    const std::string path = Indexed("messages", messages.size());
    ASSIGN_OR_RETURN(const JsonFields fields, ObjectAt(item, path));
    text::ChatMessage message;
    ASSIGN_OR_RETURN(message.role, RequiredString(fields, "role"));
    if (message.role == "developer") message.role = "system";  // its newer name at OpenAI
    ASSIGN_OR_RETURN(message.content, DecodeContent(fields));
    ASSIGN_OR_RETURN(message.tool_calls, DecodeToolCalls(fields));
    if (!fields.Find("content").has_value() && message.tool_calls.empty()) {
      return Missing(fields.PathOf("content"));
    }
    ASSIGN_OR_RETURN(std::optional<std::string> tool_call_id, fields.String("tool_call_id"));
    message.tool_call_id = std::move(tool_call_id).value_or("");
    messages.push_back(std::move(message));
  }
  if (messages.empty()) return InvalidField("messages", "messages is empty, at least 1 is needed");
  return messages;
}

// The tools as their own JSON texts: the chat template renders them, nobody else reads them.
absl::StatusOr<std::vector<std::string>> DecodeTools(const JsonFields& body) {
  std::vector<std::string> tools;
  ASSIGN_OR_RETURN(const std::optional<array> items, body.Array("tools", kMaxTools));
  const std::optional<element> choice = body.Find("tool_choice");
  const bool none = choice.has_value() && IsText(*choice, "none");
  if (choice.has_value() && !none && !IsText(*choice, "auto")) {
    return WrongType(*choice, "tool_choice", "\"auto\" or \"none\" (a call cannot be forced)");
  }
  if (!items.has_value()) return tools;
  for (element item : *items) {
    const std::string path = Indexed("tools", tools.size());
    ASSIGN_OR_RETURN(const JsonFields tool, ObjectAt(item, path));
    ASSIGN_OR_RETURN(const std::string type, RequiredString(tool, "type"));
    if (type != "function") {
      return Unsupported(tool.PathOf("type"),
                         absl::StrCat("is \"", type, "\", only \"function\" is known"));
    }
    ASSIGN_OR_RETURN(const std::optional<JsonFields> function, tool.Object("function"));
    if (!function.has_value()) return Missing(tool.PathOf("function"));
    RETURN_IF_ERROR(RequiredString(*function, "name"));
    ASSIGN_OR_RETURN(std::string text, JsonTextAt(item, path));
    tools.push_back(std::move(text));
  }
  if (none) tools.clear();
  return tools;
}

absl::StatusOr<ChatInput> DecodeChat(const JsonFields& body) {
  ChatInput chat;
  ASSIGN_OR_RETURN(chat.messages, DecodeMessages(body));
  ASSIGN_OR_RETURN(chat.tools_json, DecodeTools(body));
  ASSIGN_OR_RETURN(const std::optional<bool> prompt, body.Bool("add_generation_prompt"));
  chat.add_generation_prompt = prompt.value_or(true);
  return chat;
}

absl::StatusOr<PromptInput> DecodePrompt(element prompt, const std::string& path) {
  if (prompt.is_string()) {
    ASSIGN_OR_RETURN(std::string text, StringAt(prompt, path));
    return TextInput{std::move(text)};
  }
  array items;
  if (prompt.get_array().get(items) != simdjson::SUCCESS) {
    return WrongType(prompt, path, "a string or an array of token ids");
  }
  if (items.size() == 0) return Unsupported(path, "is empty");
  if (items.size() > kMaxPromptIds) {
    return Unsupported(path, absl::StrCat("has ", items.size(), " ids, limit ", kMaxPromptIds));
  }
  ASSIGN_OR_RETURN(std::vector<TokenId> ids, TokenIdsAt(items, path));
  return TokenInput{std::move(ids)};
}

// A string, ids, or a list of these.
absl::StatusOr<std::vector<PromptInput>> DecodePrompts(const JsonFields& body) {
  const std::string path = "prompt";
  const std::optional<element> prompt = body.Find(path);
  if (!prompt.has_value()) return Missing(path);
  std::vector<PromptInput> prompts;
  array items;
  const bool is_list = prompt->get_array().get(items) == simdjson::SUCCESS && items.size() > 0 &&
                       !items.at(0).value_unsafe().is_number();
  if (!is_list) {
    ASSIGN_OR_RETURN(prompts.emplace_back(), DecodePrompt(*prompt, path));
    return prompts;
  }
  if (items.size() > kMaxPrompts) {
    return Unsupported(path, absl::StrCat("has ", items.size(), " prompts, limit ", kMaxPrompts));
  }
  for (element item : items) {
    const std::string item_path = Indexed(path, prompts.size());
    ASSIGN_OR_RETURN(prompts.emplace_back(), DecodePrompt(item, item_path));
  }
  return prompts;
}

absl::StatusOr<std::vector<std::pair<TokenId, float>>> DecodeLogitBias(const JsonFields& body) {
  std::vector<std::pair<TokenId, float>> biases;
  ASSIGN_OR_RETURN(const std::optional<JsonFields> fields, body.Object("logit_bias"));
  if (!fields.has_value()) return biases;
  if (fields->object().size() > kMaxLogitBias) {
    return Unsupported("logit_bias", absl::StrCat("has ", fields->object().size(),
                                                  " entries, limit ", kMaxLogitBias));
  }
  for (const auto [key, value] : fields->object()) {
    int32_t id = 0;
    // As ids are written: no sign, space or leading zero, which SimpleAtoi would let pass.
    if (!absl::SimpleAtoi(absl::string_view(key.data(), key.size()), &id) || id < 0 ||
        absl::StrCat(id) != key) {
      return Unsupported("logit_bias", absl::StrCat("has the key \"", std::string(key),
                                                    "\", expected a token id"));
    }
    const std::string path = fields->PathOf(key);
    ASSIGN_OR_RETURN(const double bias, NumberAt(value, path));
    if (bias < -100 || bias > 100) {
      return Unsupported(path, absl::StrCat("is ", bias, ", limit -100 to 100"));
    }
    const auto earlier = std::ranges::find(biases, id, &std::pair<TokenId, float>::first);
    if (earlier != biases.end()) {  // of a key that is there twice the last counts
      earlier->second = static_cast<float>(bias);
    } else {
      biases.emplace_back(id, static_cast<float>(bias));
    }
  }
  return biases;
}

absl::StatusOr<std::vector<std::string>> DecodeStops(const JsonFields& body) {
  const std::optional<element> stop = body.Find("stop");
  std::vector<std::string> stops;
  if (!stop.has_value()) return stops;
  if (stop->is_string()) {
    ASSIGN_OR_RETURN(std::string text, StringAt(*stop, "stop"));
    stops.push_back(std::move(text));
    return stops;
  }
  if (!stop->is_array()) return WrongType(*stop, "stop", "a string or an array of strings");
  ASSIGN_OR_RETURN(const std::optional<array> items, body.Array("stop", kMaxStops));
  for (element item : *items) {
    ASSIGN_OR_RETURN(std::string text, StringAt(item, Indexed("stop", stops.size())));
    stops.push_back(std::move(text));
  }
  return stops;
}

absl::Status DecodeSampling(const JsonFields& body, SamplingOptions& sampling) {
  ASSIGN_OR_RETURN(sampling.temperature, body.Number("temperature"));
  ASSIGN_OR_RETURN(sampling.top_p, body.Number("top_p"));
  ASSIGN_OR_RETURN(sampling.top_k, body.Integer("top_k", -1, kMaxTokenId));
  ASSIGN_OR_RETURN(sampling.min_p, body.Number("min_p"));
  ASSIGN_OR_RETURN(sampling.repetition_penalty, body.Number("repetition_penalty"));
  ASSIGN_OR_RETURN(sampling.presence_penalty, body.Number("presence_penalty"));
  ASSIGN_OR_RETURN(sampling.frequency_penalty, body.Number("frequency_penalty"));
  ASSIGN_OR_RETURN(sampling.logit_bias, DecodeLogitBias(body));
  // Any 64 bits are a seed, written with or without a sign.
  const std::optional<element> seed = body.Find("seed");
  if (seed.has_value() && seed->is_uint64()) {
    sampling.seed = seed->get_uint64().value_unsafe();
  } else if (seed.has_value()) {
    ASSIGN_OR_RETURN(const int64_t value,
                     IntegerAt(*seed, "seed", std::numeric_limits<int64_t>::min(), kMaxInt64));
    sampling.seed = static_cast<uint64_t>(value);
  }
  return absl::OkStatus();
}

absl::Status DecodeLogprobs(const JsonFields& body, GenerateRequest& request,
                            ResponseShape& shape) {
  SamplingOptions& sampling = request.sampling;
  if (shape.endpoint == OpenAiEndpoint::kCompletions) {
    ASSIGN_OR_RETURN(sampling.top_logprobs, body.Integer("logprobs", 0, kMaxTopLogprobs));
  } else {
    ASSIGN_OR_RETURN(const std::optional<bool> logprobs, body.Bool("logprobs"));
    ASSIGN_OR_RETURN(const std::optional<int64_t> top,
                     body.Integer("top_logprobs", 0, kMaxTopLogprobs));
    if (logprobs.value_or(false)) {
      sampling.top_logprobs = top.value_or(0);
    } else if (top.value_or(0) > 0) {
      return Unsupported("top_logprobs", "needs logprobs to be true");
    }
  }
  shape.logprobs = sampling.top_logprobs.has_value();
  ASSIGN_OR_RETURN(sampling.prompt_logprobs, body.Integer("prompt_logprobs", 0, kMaxTopLogprobs));
  shape.prompt_logprobs = sampling.prompt_logprobs.has_value();
  if (shape.prompt_logprobs && shape.stream) {
    return Unsupported("prompt_logprobs", "is for whole answers: stream must be false");
  }
  if (!request.echo || !shape.logprobs) return absl::OkStatus();
  if (shape.prompt_logprobs && sampling.prompt_logprobs != sampling.top_logprobs) {
    return Unsupported("prompt_logprobs",
                       absl::StrCat("is ", *sampling.prompt_logprobs, ", logprobs ",
                                    *sampling.top_logprobs, ": with echo they must be the same"));
  }
  sampling.prompt_logprobs = sampling.top_logprobs;
  return absl::OkStatus();
}

absl::Status DecodeStopping(const JsonFields& body, GenerateRequest& request) {
  ASSIGN_OR_RETURN(request.max_tokens, body.Integer("max_completion_tokens", 0, kMaxInt64));
  ASSIGN_OR_RETURN(const std::optional<int64_t> max_tokens,
                   body.Integer("max_tokens", 0, kMaxInt64));
  if (!request.max_tokens.has_value()) request.max_tokens = max_tokens;
  ASSIGN_OR_RETURN(const std::optional<int64_t> min_tokens,
                   body.Integer("min_tokens", 0, kMaxInt64));
  request.min_tokens = min_tokens.value_or(0);
  ASSIGN_OR_RETURN(const std::optional<bool> ignore_eos, body.Bool("ignore_eos"));
  request.ignore_eos = ignore_eos.value_or(false);
  ASSIGN_OR_RETURN(request.stop, DecodeStops(body));
  ASSIGN_OR_RETURN(const std::optional<array> ids, body.Array("stop_token_ids", kMaxStopTokenIds));
  if (ids.has_value()) {
    ASSIGN_OR_RETURN(request.stop_token_ids, TokenIdsAt(*ids, "stop_token_ids"));
  }
  ASSIGN_OR_RETURN(request.timeout_seconds, body.Number("timeout"));
  ASSIGN_OR_RETURN(request.truncate_prompt_tokens,
                   body.Integer("truncate_prompt_tokens", -1, kMaxInt64));
  return absl::OkStatus();
}

absl::Status DecodeShape(const JsonFields& body, ResponseShape& shape) {
  ASSIGN_OR_RETURN(const std::optional<bool> stream, body.Bool("stream"));
  shape.stream = stream.value_or(false);
  ASSIGN_OR_RETURN(const std::optional<JsonFields> options, body.Object("stream_options"));
  if (options.has_value()) {
    if (!shape.stream) return Unsupported("stream_options", "needs stream to be true");
    ASSIGN_OR_RETURN(const std::optional<bool> usage, options->Bool("include_usage"));
    ASSIGN_OR_RETURN(const std::optional<bool> progress, options->Bool("include_progress"));
    shape.include_usage = usage.value_or(false);
    shape.include_progress = progress.value_or(false);
  }
  ASSIGN_OR_RETURN(const std::optional<bool> progress, body.Bool("return_progress"));
  shape.include_progress |= progress.value_or(false);
  return absl::OkStatus();
}

// Fields whose silent loss would change what the client gets.
absl::Status RefuseUnsupported(const JsonFields& body, int64_t num_choices) {
  ASSIGN_OR_RETURN(const std::optional<JsonFields> format, body.Object("response_format"));
  if (format.has_value()) {
    ASSIGN_OR_RETURN(const std::string type, RequiredString(*format, "type"));
    if (type != "text") {
      return Unsupported("response_format.type",
                         absl::StrCat("is \"", type, "\", only \"text\" is supported"));
    }
  }
  ASSIGN_OR_RETURN(const std::optional<std::string> suffix, body.String("suffix"));
  if (!suffix.value_or("").empty()) return Unsupported("suffix", "is not supported");
  ASSIGN_OR_RETURN(const std::optional<int64_t> best_of, body.Integer("best_of", 1, kMaxChoices));
  if (best_of.value_or(num_choices) != num_choices) {
    return Unsupported("best_of", absl::StrCat("is ", *best_of, ", only n is supported"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<OpenAiRequest> DecodeOpenAiRequest(OpenAiEndpoint endpoint, std::string body) {
  ASSIGN_OR_RETURN(const JsonDocument document, JsonDocument::Parse(std::move(body)));
  const JsonFields& fields = document.fields();
  OpenAiRequest decoded;
  GenerateRequest request;
  decoded.shape.endpoint = endpoint;
  ASSIGN_OR_RETURN(request.model, RequiredString(fields, "model"));
  decoded.shape.model = request.model;
  RETURN_IF_ERROR(DecodeShape(fields, decoded.shape));
  RETURN_IF_ERROR(DecodeSampling(fields, request.sampling));
  ASSIGN_OR_RETURN(const std::optional<bool> echo, fields.Bool("echo"));
  request.echo = decoded.shape.echo = echo.value_or(false);
  RETURN_IF_ERROR(DecodeLogprobs(fields, request, decoded.shape));
  RETURN_IF_ERROR(DecodeStopping(fields, request));
  ASSIGN_OR_RETURN(const std::optional<int64_t> n, fields.Integer("n", 1, kMaxChoices));
  request.num_choices = n.value_or(1);
  RETURN_IF_ERROR(fields.String("user"));
  ASSIGN_OR_RETURN(const std::optional<int64_t> priority,
                   fields.Integer("priority", std::numeric_limits<int32_t>::min(),
                                  std::numeric_limits<int32_t>::max()));
  request.priority = static_cast<int32_t>(priority.value_or(0));
  RETURN_IF_ERROR(RefuseUnsupported(fields, request.num_choices));
  std::vector<PromptInput> inputs;
  if (endpoint == OpenAiEndpoint::kChatCompletions) {
    ASSIGN_OR_RETURN(inputs.emplace_back(), DecodeChat(fields));
  } else {
    ASSIGN_OR_RETURN(inputs, DecodePrompts(fields));
  }
  for (PromptInput& input : inputs) {
    GenerateRequest& one = decoded.requests.emplace_back(request);
    one.id = RequestId::Random();
    one.input = std::move(input);
  }
  return decoded;
}

absl::StatusOr<TokenizeRequest> DecodeTokenizeRequest(std::string body) {
  ASSIGN_OR_RETURN(const JsonDocument document, JsonDocument::Parse(std::move(body)));
  const JsonFields& fields = document.fields();
  TokenizeRequest request;
  ASSIGN_OR_RETURN(request.model, fields.String("model"));
  if (fields.Find("messages").has_value()) {
    ASSIGN_OR_RETURN(request.input, DecodeChat(fields));
    return request;
  }
  ASSIGN_OR_RETURN(request.input.emplace<TextInput>().prompt, RequiredString(fields, "prompt"));
  ASSIGN_OR_RETURN(const std::optional<bool> parse_special, fields.Bool("parse_special"));
  request.parse_special = parse_special.value_or(true);
  return request;
}

absl::StatusOr<DetokenizeRequest> DecodeDetokenizeRequest(std::string body) {
  ASSIGN_OR_RETURN(const JsonDocument document, JsonDocument::Parse(std::move(body)));
  const JsonFields& fields = document.fields();
  DetokenizeRequest request;
  ASSIGN_OR_RETURN(request.model, fields.String("model"));
  ASSIGN_OR_RETURN(const std::optional<array> tokens, fields.Array("tokens", kMaxPromptIds));
  if (!tokens.has_value()) return Missing("tokens");
  ASSIGN_OR_RETURN(request.tokens, TokenIdsAt(*tokens, "tokens"));
  return request;
}

}  // namespace longhaul::router::rest
