#include "router/prepare_request.h"

#include <algorithm>
#include <string>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "router/error_detail.h"

namespace longhaul::router {
namespace {

// Gives an error about client text the name of the field it came in.
absl::Status InText(const char* field, const absl::Status& status) {
  if (!absl::IsInvalidArgument(status)) return status;
  return InvalidField(field, absl::StrCat(field, ": ", std::string(status.message())));
}

absl::StatusOr<std::vector<TokenId>> Encode(GenerateRequest& request, const ServedModel& model) {
  if (const auto* chat = std::get_if<ChatInput>(&request.input)) return EncodeChat(*chat, model);
  if (const auto* text = std::get_if<TextInput>(&request.input)) {
    // A raw prompt is the client's own: it may write special tokens, as it can in vLLM.
    absl::StatusOr<std::vector<TokenId>> ids =
        model.tokenizer->Encode(text->prompt, text::SpecialTokens::kParse);
    if (!ids.ok()) return InText("prompt", ids.status());
    return ids;
  }
  std::vector<TokenId> ids = std::move(std::get<TokenInput>(request.input).ids);
  RETURN_IF_ERROR(CheckTokenIds("prompt", ids, model.vocab_size));
  return ids;
}

// Drops what stands before the last truncate_prompt_tokens of the prompt.
absl::Status Truncate(const GenerateRequest& request, int32_t max_model_len,
                      std::vector<TokenId>& ids) {
  if (!request.truncate_prompt_tokens) return absl::OkStatus();
  const int64_t wanted = *request.truncate_prompt_tokens;
  const int64_t output = std::clamp<int64_t>(
      request.max_tokens.value_or(std::min(kDefaultMaxTokens, max_model_len / 2)), 0,
      max_model_len);
  const int64_t keep = wanted == -1 ? max_model_len - output : wanted;
  if (keep < 1 || wanted > max_model_len) {
    return InvalidField(
        "truncate_prompt_tokens",
        absl::StrCat("truncate_prompt_tokens is ", wanted, ", must be in [1, ", max_model_len,
                     "] (max_model_len), or -1 where max_tokens leaves room for a prompt"));
  }
  const int64_t excess = static_cast<int64_t>(ids.size()) - keep;
  if (excess > 0) ids.erase(ids.begin(), ids.begin() + excess);
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckTokenIds(const char* field, std::span<const TokenId> ids, int32_t vocab_size) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < vocab_size) continue;
    // Clients' ids are unsigned: one above 2^31 is told as it came.
    return InvalidField(
        field, absl::StrCat(field, " has token id ", static_cast<uint32_t>(ids[i]), " at position ",
                            i, ", must be in [0, ", vocab_size, ") (vocabulary)"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<TokenId>> EncodeChat(const ChatInput& chat, const ServedModel& model) {
  if (!model.chat_template) {
    return InvalidField("messages", "the model has no chat template: use completions");
  }
  absl::StatusOr<std::vector<TokenId>> ids = model.chat_template->EncodeChat(
      *model.tokenizer, chat.messages, chat.tools_json, chat.add_generation_prompt);
  if (ids.ok()) return ids;
  const std::string part = text::ChatPartOf(ids.status());
  return part.empty() ? InText("messages", ids.status()) : AtField(part, ids.status());
}

absl::StatusOr<PreparedRequest> PrepareRequest(GenerateRequest request, const ServedModel& model,
                                               const RequestLimits& limits, uint64_t drawn_seed) {
  RETURN_IF_ERROR(CheckRequestShape(request));
  ASSIGN_OR_RETURN(SamplingParams sampling,
                   ResolveSampling(request.sampling, model.defaults, limits, drawn_seed));
  absl::StatusOr<text::StopMatcher> stop_matcher = text::StopMatcher::Create(request.stop);
  if (!stop_matcher.ok()) return InText("stop", stop_matcher.status());

  ASSIGN_OR_RETURN(std::vector<TokenId> ids, Encode(request, model));
  RETURN_IF_ERROR(Truncate(request, limits.max_model_len, ids));
  ASSIGN_OR_RETURN(StopParams stop,
                   ResolveStopping(request, limits, static_cast<int64_t>(ids.size())));
  std::string echo_text;
  if (request.echo && !sampling.prompt_logprobs) {
    echo_text = model.tokenizer->Decode(ids, /*skip_special=*/false);
  }
  return PreparedRequest{
      .prompt = std::make_shared<const std::vector<TokenId>>(std::move(ids)),
      .sampling = std::move(sampling),
      .stop = std::move(stop),
      .stop_strings = std::move(request.stop),
      .stop_matcher = *std::move(stop_matcher),
      .echo = request.echo,
      .echo_text = std::move(echo_text),
      .num_choices = static_cast<int32_t>(request.num_choices),
      .priority = request.priority,
      .model = std::move(request.model),
      .tenant = std::move(request.tenant),
      .traceparent = std::move(request.traceparent),
  };
}

}  // namespace longhaul::router
