#include "cli/prompt_codec.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/text/utf8.h"

namespace longhaul::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMaxQuotedBytes = 500;

template <typename T>
void Put(Json& body, const char* name, const std::optional<T>& value) {
  if (value.has_value()) body[name] = *value;
}

std::string StringOr(const Json& object, const char* name, const char* other) {
  const auto found = object.find(name);
  return found != object.end() && found->is_string() ? found->get<std::string>() : other;
}

int64_t IntegerOr0(const Json& object, const char* name) {
  const auto found = object.find(name);
  return found != object.end() && found->is_number() ? found->get<int64_t>() : 0;
}

const Json* ObjectIn(const Json& parent, const char* name) {
  const auto found = parent.find(name);
  return found != parent.end() && found->is_object() ? &*found : nullptr;
}

}  // namespace

std::string PromptPath(const PromptOptions& options) {
  return options.raw ? "/v1/completions" : "/v1/chat/completions";
}

absl::StatusOr<std::string> PromptBody(const PromptOptions& options, const std::string& model,
                                       const std::string& prompt) {
  if (options.system.has_value() && text::FindInvalidUtf8(*options.system) != std::string::npos) {
    return absl::InvalidArgumentError("--system is not UTF-8");
  }
  for (const std::string& stop : options.stop) {
    if (text::FindInvalidUtf8(stop) != std::string::npos)
      return absl::InvalidArgumentError("--stop is not UTF-8");
  }
  Json body = {{"model", model},
               {"stream", true},
               {"stream_options", {{"include_usage", true}, {"include_progress", true}}}};
  if (options.raw) {
    body["prompt"] = prompt;
  } else {
    Json messages = Json::array();
    if (options.system.has_value()) {
      messages.push_back({{"role", "system"}, {"content", *options.system}});
    }
    messages.push_back({{"role", "user"}, {"content", prompt}});
    body["messages"] = std::move(messages);
  }
  Put(body, "max_tokens", options.max_tokens);
  Put(body, "temperature", options.temperature);
  Put(body, "top_p", options.top_p);
  Put(body, "top_k", options.top_k);
  Put(body, "min_p", options.min_p);
  Put(body, "repetition_penalty", options.repetition_penalty);
  Put(body, "seed", options.seed);
  if (!options.stop.empty()) body["stop"] = options.stop;
  if (options.ignore_eos) body["ignore_eos"] = true;
  return body.dump();
}

absl::StatusOr<PromptEvent> ParsePromptEvent(std::string_view data) {
  PromptEvent event;
  if (data == "[DONE]") {
    event.done = true;
    return event;
  }
  const Json json = Json::parse(data, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) {
    return absl::InternalError(absl::StrCat("an event of the answer is no JSON object: ",
                                            std::string(data.substr(0, kMaxQuotedBytes))));
  }
  if (const Json* error = ObjectIn(json, "error")) {
    event.error = StringOr(*error, "message", "an error without a message");
  }
  if (const Json* progress = ObjectIn(json, "progress")) {
    event.progress = {.prompt_tokens = IntegerOr0(*progress, "prompt_tokens"),
                      .processed_tokens = IntegerOr0(*progress, "processed_tokens"),
                      .eta_seconds = std::nullopt};
    const auto eta = progress->find("eta_seconds");
    if (eta != progress->end() && eta->is_number())
      event.progress->eta_seconds = eta->get<double>();
  }
  if (const Json* usage = ObjectIn(json, "usage")) {
    event.usage = {.prompt_tokens = IntegerOr0(*usage, "prompt_tokens"),
                   .completion_tokens = IntegerOr0(*usage, "completion_tokens")};
  }
  const auto choices = json.find("choices");
  if (choices != json.end() && choices->is_array() && !choices->empty() &&
      choices->front().is_object()) {
    const Json& choice = choices->front();
    const Json* delta = ObjectIn(choice, "delta");
    event.text = delta != nullptr ? StringOr(*delta, "content", "") : StringOr(choice, "text", "");
    event.finish_reason = StringOr(choice, "finish_reason", "");
  }
  return event;
}

std::string ErrorMessageOf(std::string_view body) {
  const Json json = Json::parse(body, nullptr, /*allow_exceptions=*/false);
  if (json.is_object()) {
    if (const Json* error = ObjectIn(json, "error")) {
      const std::string message = StringOr(*error, "message", "");
      if (!message.empty()) return message;
    }
  }
  return std::string(body.substr(0, kMaxQuotedBytes));
}

}  // namespace longhaul::cli
