#include "router/resolve_sampling.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "router/error_detail.h"

namespace longhaul::router {
namespace {

constexpr size_t kMaxLogitBias = 1024;
constexpr float kMaxBias = 100;
constexpr size_t kMaxStopTokenIds = 64;
constexpr size_t kMaxRequestIdBytes = 128;
constexpr int32_t kMaxPriority = 100;

enum class Edge { kClosed, kOpen };

// [low, high], or (low, high] with Edge::kOpen. NaN is outside of every range.
absl::Status CheckRange(std::string_view field, double value, double low, double high,
                        Edge low_edge = Edge::kClosed) {
  const bool above = low_edge == Edge::kOpen ? value > low : value >= low;
  if (above && value <= high) return absl::OkStatus();
  return InvalidField(field,
                      absl::StrCat(std::string(field), " is ", value, ", must be in ",
                                   low_edge == Edge::kOpen ? "(" : "[", low, ", ", high, "]"));
}

absl::Status CheckToken(std::string_view field, TokenId id, int32_t vocab_size) {
  if (id >= 0 && id < vocab_size) return absl::OkStatus();
  // Clients' ids are unsigned: one above 2^31 is told as it came.
  return InvalidField(field,
                      absl::StrCat(std::string(field), " has token id ", static_cast<uint32_t>(id),
                                   ", must be in [0, ", vocab_size, ") (vocabulary)"));
}

absl::StatusOr<int32_t> ResolveTopK(const SamplingOptions& options,
                                    const GenerationDefaults& defaults, int32_t vocab_size) {
  if (!options.top_k) return std::clamp(defaults.top_k, 0, vocab_size);
  const int64_t top_k = *options.top_k;
  if (top_k < -1 || top_k > vocab_size) {
    return InvalidField(
        "top_k", absl::StrCat("top_k is ", top_k, ", must be 0 or -1 (off) or in [1, ", vocab_size,
                              "] (vocabulary)"));
  }
  return static_cast<int32_t>(std::max<int64_t>(top_k, 0));
}

absl::StatusOr<std::vector<std::pair<TokenId, float>>> ResolveLogitBias(
    std::vector<std::pair<TokenId, float>> bias, int32_t vocab_size) {
  if (bias.size() > kMaxLogitBias) {
    return InvalidField("logit_bias", absl::StrCat("logit_bias has ", bias.size(),
                                                   " entries, limit ", kMaxLogitBias));
  }
  for (const auto& [token, value] : bias) {
    RETURN_IF_ERROR(CheckToken("logit_bias", token, vocab_size));
    if (!(value >= -kMaxBias && value <= kMaxBias)) {  // a NaN fails
      return InvalidField(
          "logit_bias", absl::StrCat("logit_bias of token ", token, " is ", value, ", must be in [",
                                     -kMaxBias, ", ", kMaxBias, "]"));
    }
  }
  std::sort(bias.begin(), bias.end());
  const auto twice = std::adjacent_find(
      bias.begin(), bias.end(), [](const auto& a, const auto& b) { return a.first == b.first; });
  if (twice != bias.end()) {
    return InvalidField("logit_bias",
                        absl::StrCat("logit_bias names token id ", twice->first, " twice"));
  }
  return bias;
}

absl::StatusOr<std::optional<int32_t>> ResolveLogprobs(std::string_view field,
                                                       std::optional<int64_t> alternatives) {
  if (!alternatives) return std::nullopt;
  RETURN_IF_ERROR(CheckRange(field, static_cast<double>(*alternatives), 0, kMaxTopLogprobs));
  return static_cast<int32_t>(*alternatives);
}

}  // namespace

absl::Status CheckRequestShape(const GenerateRequest& request) {
  if (request.num_choices < 1 || request.num_choices > kMaxChoices) {
    return InvalidField(
        "n", absl::StrCat("n is ", request.num_choices, ", must be in [1, ", kMaxChoices, "]"));
  }
  RETURN_IF_ERROR(CheckRange("priority", request.priority, -kMaxPriority, kMaxPriority));
  if (request.echo && std::holds_alternative<ChatInput>(request.input)) {
    return InvalidField("echo",
                        "echo is for completions: a chat's prompt is not its client's text");
  }
  const std::string& id = request.client_request_id;
  if (id.size() > kMaxRequestIdBytes) {
    return InvalidField("request_id", absl::StrCat("request_id has ", id.size(), " bytes, limit ",
                                                   kMaxRequestIdBytes));
  }
  if (!std::all_of(id.begin(), id.end(), [](char c) { return c >= 0x20 && c < 0x7f; })) {
    return InvalidField("request_id", "request_id has a character that is not printable ASCII");
  }
  return absl::OkStatus();
}

absl::StatusOr<SamplingParams> ResolveSampling(const SamplingOptions& options,
                                               const GenerationDefaults& defaults,
                                               const RequestLimits& limits, uint64_t drawn_seed) {
  const double temperature =
      options.temperature.value_or(defaults.do_sample ? defaults.temperature : 0.0);
  const double top_p = options.top_p.value_or(defaults.top_p);
  const double min_p = options.min_p.value_or(0.0);
  const double repetition = options.repetition_penalty.value_or(defaults.repetition_penalty);
  const double presence = options.presence_penalty.value_or(0.0);
  const double frequency = options.frequency_penalty.value_or(0.0);
  RETURN_IF_ERROR(CheckRange("temperature", temperature, 0, 2));
  RETURN_IF_ERROR(CheckRange("top_p", top_p, 0, 1, Edge::kOpen));
  RETURN_IF_ERROR(CheckRange("min_p", min_p, 0, 1));
  RETURN_IF_ERROR(CheckRange("repetition_penalty", repetition, 0, 10, Edge::kOpen));
  RETURN_IF_ERROR(CheckRange("presence_penalty", presence, -2, 2));
  RETURN_IF_ERROR(CheckRange("frequency_penalty", frequency, -2, 2));

  SamplingParams params;
  params.temperature = static_cast<float>(temperature);
  // A positive double below the smallest float must not become 0, which means another rule.
  params.top_p = std::max(static_cast<float>(top_p), 1e-30f);
  params.repetition_penalty = std::max(static_cast<float>(repetition), 1e-30f);
  params.min_p = static_cast<float>(min_p);
  params.presence_penalty = static_cast<float>(presence);
  params.frequency_penalty = static_cast<float>(frequency);
  params.seed = options.seed.value_or(drawn_seed);
  ASSIGN_OR_RETURN(params.top_k, ResolveTopK(options, defaults, limits.vocab_size));
  ASSIGN_OR_RETURN(params.logit_bias, ResolveLogitBias(options.logit_bias, limits.vocab_size));
  ASSIGN_OR_RETURN(params.top_logprobs, ResolveLogprobs("top_logprobs", options.top_logprobs));
  ASSIGN_OR_RETURN(params.prompt_logprobs,
                   ResolveLogprobs("prompt_logprobs", options.prompt_logprobs));
  return params;
}

absl::StatusOr<StopParams> ResolveStopping(const GenerateRequest& request,
                                           const RequestLimits& limits, int64_t prompt_tokens) {
  const char* prompt_field =
      std::holds_alternative<ChatInput>(request.input) ? "messages" : "prompt";
  if (prompt_tokens < 1)
    return InvalidField(prompt_field, "prompt has 0 tokens, must have at least 1");
  const int64_t room = limits.max_model_len - prompt_tokens;
  if (room < 0 || (room == 0 && request.max_tokens.value_or(1) != 0)) {
    return InvalidField(prompt_field,
                        absl::StrCat("prompt has ", prompt_tokens, " tokens, ",
                                     room == 0 ? "which leaves no room for output: " : "",
                                     "model limit ", limits.max_model_len, " (max_model_len)"));
  }
  if (request.sampling.prompt_logprobs && prompt_tokens > limits.max_prompt_logprobs_tokens) {
    return InvalidField(
        request.echo ? "echo" : "prompt_logprobs",
        absl::StrCat("prompt has ", prompt_tokens,
                     " tokens, limit where their logprobs are asked for ",
                     limits.max_prompt_logprobs_tokens, " (--max-prompt-logprobs-tokens)"));
  }
  StopParams stop;
  if (request.max_tokens) {
    if (*request.max_tokens < 0 || *request.max_tokens > room) {
      return InvalidField("max_tokens",
                          absl::StrCat("max_tokens is ", *request.max_tokens, ", must be in [0, ",
                                       room, "]: model limit ", limits.max_model_len,
                                       " (max_model_len) less ", prompt_tokens, " prompt tokens"));
    }
    stop.max_tokens = static_cast<int32_t>(*request.max_tokens);
  } else {
    stop.max_tokens = static_cast<int32_t>(std::min<int64_t>(kDefaultMaxTokens, room));
  }
  if (request.min_tokens < 0 || request.min_tokens > stop.max_tokens) {
    return InvalidField("min_tokens",
                        absl::StrCat("min_tokens is ", request.min_tokens, ", must be in [0, ",
                                     stop.max_tokens, "] (max_tokens)"));
  }
  stop.min_tokens = static_cast<int32_t>(request.min_tokens);
  stop.ignore_eos = request.ignore_eos;
  if (request.stop_token_ids.size() > kMaxStopTokenIds) {
    return InvalidField("stop_token_ids",
                        absl::StrCat("stop_token_ids has ", request.stop_token_ids.size(),
                                     " entries, limit ", kMaxStopTokenIds));
  }
  for (const TokenId id : request.stop_token_ids) {
    RETURN_IF_ERROR(CheckToken("stop_token_ids", id, limits.vocab_size));
  }
  stop.stop_token_ids = request.stop_token_ids;
  return stop;
}

}  // namespace longhaul::router
