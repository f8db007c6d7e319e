#include "router/rest/logprobs_json.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/text/utf8.h"

namespace longhaul::router::rest {
namespace {

using Json = nlohmann::ordered_json;

constexpr float kLeastLogprob = -9999.0f;

Json LogprobValue(float logprob) { return std::max(logprob, kLeastLogprob); }

std::string TextOf(const std::string& bytes) {
  std::string text;
  text::AppendWellFormed(bytes, text::Continuation::kNone, text);
  return text;
}

// Different for different tokens, unlike TextOf.
std::string KeyOf(const std::string& bytes) {
  if (text::FindInvalidUtf8(bytes) == std::string::npos) return bytes;
  std::string key = "bytes:";
  for (const char c : bytes) {
    absl::StrAppend(&key, "\\x", absl::Hex(static_cast<unsigned char>(c), absl::kZeroPad2));
  }
  return key;
}

Json ChatToken(const std::string& bytes, float logprob) {
  Json values = Json::array();
  for (const char c : bytes) values.push_back(static_cast<unsigned char>(c));
  return {
      {"token", TextOf(bytes)}, {"logprob", LogprobValue(logprob)}, {"bytes", std::move(values)}};
}

}  // namespace

Json ChatLogprobs(const std::vector<GeneratedToken>& tokens, const TokenBytes& token_bytes) {
  Json content = Json::array();
  for (const GeneratedToken& token : tokens) {
    Json entry = ChatToken(token_bytes(token.token), token.logprob.value_or(kLeastLogprob));
    Json top = Json::array();
    for (const TokenLogprob& other : token.top_logprobs) {
      top.push_back(ChatToken(token_bytes(other.token), other.logprob));
    }
    entry["top_logprobs"] = std::move(top);
    content.push_back(std::move(entry));
  }
  return {{"content", std::move(content)}};
}

void TextOffset::Push(const std::string& bytes) {
  held_ += bytes;
  std::string text;
  held_.erase(0, text::AppendWellFormed(held_, text::Continuation::kMayFollow, text));
  characters_ += std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; });
}

Json CompletionLogprobs(const std::vector<GeneratedToken>& tokens, const TokenBytes& token_bytes,
                        TextOffset& text_offset) {
  Json texts = Json::array();
  Json logprobs = Json::array();
  Json tops = Json::array();
  Json offsets = Json::array();
  for (const GeneratedToken& token : tokens) {
    const std::string bytes = token_bytes(token.token);
    texts.push_back(KeyOf(bytes));
    offsets.push_back(text_offset.characters());
    text_offset.Push(bytes);
    if (!token.logprob.has_value()) {
      logprobs.push_back(nullptr);
      tops.push_back(nullptr);
      continue;
    }
    logprobs.push_back(LogprobValue(*token.logprob));
    Json top = Json::object();
    for (const TokenLogprob& other : token.top_logprobs) {
      top[KeyOf(token_bytes(other.token))] = LogprobValue(other.logprob);
    }
    // The token itself is there whether or not it is among the most probable.
    top[KeyOf(bytes)] = LogprobValue(*token.logprob);
    tops.push_back(std::move(top));
  }
  return {{"tokens", std::move(texts)},
          {"token_logprobs", std::move(logprobs)},
          {"top_logprobs", std::move(tops)},
          {"text_offset", std::move(offsets)}};
}

Json PromptLogprobs(const std::vector<GeneratedToken>& tokens, const TokenBytes& token_bytes) {
  Json positions = Json::array();
  for (const GeneratedToken& token : tokens) {
    if (!token.logprob.has_value()) {
      positions.push_back(nullptr);
      continue;
    }
    Json position = Json::object();
    const auto add = [&](TokenId id, float logprob, Json rank) {
      position[absl::StrCat(id)] = {{"logprob", LogprobValue(logprob)},
                                    {"rank", std::move(rank)},
                                    {"decoded_token", TextOf(token_bytes(id))}};
    };
    add(token.token, *token.logprob, nullptr);
    int64_t rank = 0;
    for (const TokenLogprob& other : token.top_logprobs) add(other.token, other.logprob, ++rank);
    positions.push_back(std::move(position));
  }
  return positions;
}

}  // namespace longhaul::router::rest
