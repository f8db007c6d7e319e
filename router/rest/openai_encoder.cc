#include "router/rest/openai_encoder.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "router/rest/logprobs_json.h"

namespace longhaul::router::rest {
namespace {

using Json = nlohmann::ordered_json;

std::string Dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

const char* ReasonText(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
  }
  return "stop";
}

Json UsageJson(const Usage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.completion_tokens},
          {"total_tokens", int64_t{usage.prompt_tokens} + usage.completion_tokens},
          {"prompt_tokens_details", {{"cached_tokens", usage.cached_tokens}}}};
}

// What every object of one response begins with.
Json Envelope(const std::string& id, const char* object, int64_t created,
              const ResponseShape& shape) {
  return {{"id", id}, {"object", object}, {"created", created}, {"model", shape.model}};
}

// A chunk of a stream.
std::string Chunk(const std::string& id, int64_t created, const ResponseShape& shape, Json choices,
                  Json usage = nullptr, Json progress = nullptr) {
  const bool is_chat = shape.endpoint == OpenAiEndpoint::kChatCompletions;
  Json chunk = Envelope(id, is_chat ? "chat.completion.chunk" : "text_completion", created, shape);
  chunk["choices"] = std::move(choices);
  // As OpenAI does: with include_usage, every chunk but the last has a null.
  if (shape.include_usage) chunk["usage"] = std::move(usage);
  if (!progress.is_null()) chunk["progress"] = std::move(progress);
  return Dump(chunk);
}

Json ChatChoice(int32_t index, Json delta, Json logprobs, Json finish_reason) {
  return Json::array({Json{{"index", index},
                           {"delta", std::move(delta)},
                           {"logprobs", std::move(logprobs)},
                           {"finish_reason", std::move(finish_reason)}}});
}

Json TextChoice(int32_t index, const std::string& text, Json logprobs, Json finish_reason) {
  return Json::array({Json{{"index", index},
                           {"text", text},
                           {"logprobs", std::move(logprobs)},
                           {"finish_reason", std::move(finish_reason)}}});
}

}  // namespace

OpenAiEncoder::OpenAiEncoder(ResponseShape shape, const RequestId& id, size_t num_prompts,
                             size_t num_choices, absl::Time created, TokenBytes token_bytes)
    : shape_(std::move(shape)),
      id_((shape_.endpoint == OpenAiEndpoint::kChatCompletions ? "chatcmpl-" : "cmpl-") +
          id.ToString()),
      created_(absl::ToUnixSeconds(created)),
      token_bytes_(std::move(token_bytes)),
      choices_(num_prompts * num_choices),
      usages_(num_prompts) {}

std::string OpenAiEncoder::ProgressChunk(const ProgressEvent& event) const {
  Json progress = {{"prompt_tokens", event.prompt_tokens},
                   {"cached_tokens", event.cached_tokens},
                   {"processed_tokens", event.processed_tokens}};
  progress["eta_seconds"] =
      event.eta_seconds.has_value() ? Json(*event.eta_seconds) : Json(nullptr);
  return Chunk(id_, created_, shape_, Json::array(), nullptr, std::move(progress));
}

std::vector<std::string> OpenAiEncoder::PromptChunks(const PromptEvent& event) {
  return DeltaChunks({.choice = event.choice, .text = event.text, .tokens = event.tokens});
}

std::vector<std::string> OpenAiEncoder::DeltaChunks(const DeltaEvent& event) {
  Choice& choice = choices_.at(static_cast<size_t>(event.choice));
  std::vector<std::string> chunks;
  if (is_chat() && !choice.has_role) {
    choice.has_role = true;
    Json delta = {{"role", "assistant"}, {"content", ""}};
    chunks.push_back(
        Chunk(id_, created_, shape_, ChatChoice(event.choice, std::move(delta), nullptr, nullptr)));
  }
  const bool has_logprobs = shape_.logprobs && !event.tokens.empty();
  if (event.text.empty() && !has_logprobs) return chunks;
  Json logprobs = nullptr;
  if (is_chat()) {
    if (has_logprobs) logprobs = ChatLogprobs(event.tokens, token_bytes_);
    Json delta = {{"content", event.text}};
    chunks.push_back(
        Chunk(id_, created_, shape_,
              ChatChoice(event.choice, std::move(delta), std::move(logprobs), nullptr)));
  } else {
    if (has_logprobs) {
      logprobs = CompletionLogprobs(event.tokens, token_bytes_, choice.text_offset);
    }
    chunks.push_back(Chunk(id_, created_, shape_,
                           TextChoice(event.choice, event.text, std::move(logprobs), nullptr)));
  }
  return chunks;
}

std::vector<std::string> OpenAiEncoder::FinishChunks(const FinishedEvent& event, bool all_done) {
  CountUsage(event);
  // A choice without a token has a role all the same.
  std::vector<std::string> chunks = DeltaChunks({.choice = event.choice, .text = "", .tokens = {}});
  const char* reason = ReasonText(event.reason);
  Json choice = is_chat() ? ChatChoice(event.choice, Json::object(), nullptr, reason)
                          : TextChoice(event.choice, "", nullptr, reason);
  chunks.push_back(Chunk(id_, created_, shape_, std::move(choice)));
  if (all_done && shape_.include_usage) {
    chunks.push_back(Chunk(id_, created_, shape_, Json::array(), UsageJson(TotalUsage())));
  }
  return chunks;
}

void OpenAiEncoder::Add(const PromptEvent& event) {
  Choice& choice = choices_.at(static_cast<size_t>(event.choice));
  if (shape_.prompt_logprobs) {
    choice.prompt.insert(choice.prompt.end(), event.tokens.begin(), event.tokens.end());
  }
  if (shape_.echo) {
    Add(DeltaEvent{.choice = event.choice, .text = event.text, .tokens = event.tokens});
  }
}

void OpenAiEncoder::Add(const DeltaEvent& event) {
  Choice& choice = choices_.at(static_cast<size_t>(event.choice));
  choice.text += event.text;
  if (!shape_.logprobs) return;
  choice.tokens.insert(choice.tokens.end(), event.tokens.begin(), event.tokens.end());
}

void OpenAiEncoder::Add(const FinishedEvent& event) {
  choices_.at(static_cast<size_t>(event.choice)).finish_reason = ReasonText(event.reason);
  CountUsage(event);
}

// The choices of a prompt share it: it is read once.
void OpenAiEncoder::CountUsage(const FinishedEvent& event) {
  const size_t num_choices = choices_.size() / usages_.size();
  Usage& usage = usages_.at(static_cast<size_t>(event.choice) / num_choices);
  usage.prompt_tokens = event.usage.prompt_tokens;
  usage.cached_tokens = std::max(usage.cached_tokens, event.usage.cached_tokens);
  usage.completion_tokens += event.usage.completion_tokens;
}

Usage OpenAiEncoder::TotalUsage() const {
  Usage total;
  for (const Usage& usage : usages_) {
    total.prompt_tokens += usage.prompt_tokens;
    total.cached_tokens += usage.cached_tokens;
    total.completion_tokens += usage.completion_tokens;
  }
  return total;
}

std::string OpenAiEncoder::WholeBody() const {
  Json body = Envelope(id_, is_chat() ? "chat.completion" : "text_completion", created_, shape_);
  Json choices = Json::array();
  for (size_t i = 0; i < choices_.size(); i++) {
    const Choice& choice = choices_[i];
    Json entry = {{"index", i}};
    Json logprobs = nullptr;
    if (is_chat()) {
      entry["message"] = {{"role", "assistant"}, {"content", choice.text}};
      if (shape_.logprobs) logprobs = ChatLogprobs(choice.tokens, token_bytes_);
    } else {
      entry["text"] = choice.text;
      TextOffset text_offset;
      if (shape_.logprobs) logprobs = CompletionLogprobs(choice.tokens, token_bytes_, text_offset);
    }
    entry["logprobs"] = std::move(logprobs);
    entry["finish_reason"] = choice.finish_reason;
    if (shape_.prompt_logprobs && !is_chat()) {
      entry["prompt_logprobs"] = PromptLogprobs(choice.prompt, token_bytes_);
    }
    choices.push_back(std::move(entry));
  }
  body["choices"] = std::move(choices);
  if (shape_.prompt_logprobs && is_chat()) {
    body["prompt_logprobs"] = PromptLogprobs(choices_.front().prompt, token_bytes_);
  }
  body["usage"] = UsageJson(TotalUsage());
  return Dump(body);
}

namespace {

Json ModelJson(const ModelInfo& model) {
  return {{"id", model.id},
          {"object", "model"},
          {"created", model.created_unix_seconds},
          {"owned_by", "longhaul"},
          {"max_model_len", model.max_model_len}};
}

}  // namespace

std::string ModelListBody(const std::vector<ModelInfo>& models) {
  Json data = Json::array();
  for (const ModelInfo& model : models) data.push_back(ModelJson(model));
  return Dump({{"object", "list"}, {"data", std::move(data)}});
}

std::string ModelBody(const ModelInfo& model) { return Dump(ModelJson(model)); }

std::string TokenizeBody(const std::vector<TokenId>& ids, int32_t max_model_len) {
  return Dump({{"count", ids.size()}, {"max_model_len", max_model_len}, {"tokens", ids}});
}

std::string DetokenizeBody(const std::string& text) { return Dump({{"prompt", text}}); }

}  // namespace longhaul::router::rest
